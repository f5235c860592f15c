#include "tests/support/reversal_drift.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>

#include <palimpsest/autograd/value.hpp>
#include <palimpsest/core/philox.hpp>
#include <palimpsest/memory/policies.hpp>
#include <palimpsest/nn/sgd.hpp>
#include <palimpsest/ops/cross_entropy.hpp>
#include "tests/support/forwarding.hpp"

namespace palimpsest::test {
namespace {

/// A recipe that compares what it has brought back with the bytes of the first forward.
class Compared : public ForwardingRecipe {
 public:
  Compared(RecipePtr recipe, const View& first, StageDrift& drift)
      : ForwardingRecipe(std::move(recipe)),
        first_(first.as<float>(), first.as<float>() + first.shape.count()),
        drift_(drift) {}

  void restore(Restoring& restoring) override {
    ForwardingRecipe::restore(restoring);
    const float* const back = restoring.value().view().as<float>();
    double largest = 0;
    double difference = 0;
    for (std::size_t i = 0; i < first_.size(); ++i) {
      drift_.same += std::memcmp(&back[i], &first_[i], sizeof(float)) == 0 ? 1 : 0;
      largest = std::max(largest, std::abs(static_cast<double>(first_[i])));
      difference = std::max(difference, std::abs(static_cast<double>(back[i]) - static_cast<double>(first_[i])));
    }
    drift_.elements += first_.size();
    drift_.largest_error = std::max(drift_.largest_error, difference / largest);
  }

 private:
  std::vector<float> first_;
  StageDrift& drift_;
};

/// `reversible`, with the streams compared by the stage that their block's name begins with.
class Observed : public Policy {
 public:
  explicit Observed(std::vector<StageDrift>& stages) : stages_(stages) {}

  std::string_view name() const override { return "reversible, observed"; }
  RecipePtr decide(const Value& value, const Op& op, const BlockInfo& block) const override {
    return policy_->decide(value, op, block);
  }
  bool keeps_optional(const Value& value, const Op& op, const BlockInfo& block) const override {
    return policy_->keeps_optional(value, op, block);
  }
  std::optional<RecipePtr> reconsider(const Value& value, const Offer& offer, const BlockInfo& block) const override {
    std::optional<RecipePtr> recipe = policy_->reconsider(value, offer, block);
    if (offer.kind != Offer::Kind::Solvable) return recipe;
    const std::size_t stage = std::stoul(block.name.substr(std::string("stage").size())) - 1;
    return std::make_shared<Compared>(*recipe, value.view(), stages_[stage]);
  }

 private:
  PolicyPtr policy_ = memory::reversible();
  std::vector<StageDrift>& stages_;
};

}  // namespace

std::vector<StageDrift> reversal_drift(const nn::ResidualOptions& spec, std::int64_t batch, std::int64_t size,
                                       int steps) {
  std::vector<StageDrift> stages(spec.units.size());
  nn::RevNet model(spec, nn::Init(1));
  model.set_memory(std::make_shared<Observed>(stages));
  nn::Sgd sgd(model.parameters(), {});
  Random random(2);
  std::vector<float> pixels(static_cast<std::size_t>(batch * spec.image_channels * size * size));
  for (float& pixel : pixels) pixel = static_cast<float>(random.normal());
  std::vector<std::int32_t> labels(static_cast<std::size_t>(batch));
  for (auto& label : labels) label = static_cast<std::int32_t>(random.below(static_cast<std::uint64_t>(spec.classes)));
  const Tensor images = Tensor::from_vector({batch, spec.image_channels, size, size}, pixels);
  const Tensor targets = Tensor::from_vector({batch}, labels);
  for (int step = 0; step < steps; ++step) {
    sgd.zero_grad();
    ops::cross_entropy(model(images), targets).backward();
    sgd.step();
  }
  return stages;
}

}  // namespace palimpsest::test
