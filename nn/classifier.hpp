#pragma once

#include <memory>
#include <optional>

#include <palimpsest/nn/module.hpp>

namespace palimpsest::nn {

/// A model that maps images to class scores.
class Classifier : public Module {
 public:
  /// images: (N, C, H, W). Returns the logits, (N, classes).
  Tensor operator()(const Tensor& images) {
    std::optional<BlockScope> scope;
    if (rest_->policy != nullptr) scope.emplace(rest_, std::vector<Tensor>{images});
    return forward(images);
  }

 protected:
  virtual Tensor forward(const Tensor& images) = 0;
  BlockInfo* rest_info() override { return rest_.get(); }

 private:
  std::shared_ptr<BlockInfo> rest_ = std::make_shared<BlockInfo>(BlockInfo{"model", nullptr});
};

}  // namespace palimpsest::nn
