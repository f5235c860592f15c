#include <palimpsest/train/weights.hpp>

#include <palimpsest/core/device.hpp>
#include <palimpsest/core/error.hpp>

namespace palimpsest::train {

std::optional<storage::LoadReport> load_weights(const nn::Module& model, const Options& options) {
  if (!options.weights.empty()) {
    return storage::load_weights(options.weights, model, {.except = options.weights_except});
  }
  if (options.weights_except.empty()) return std::nullopt;
  throw ValueError(
      concat_text("'", options.weights_except.front(), "' is to be left out of weights that are not given"));
}

std::optional<storage::LoadReport> check_weights(const Task& task, const Options& options) {
  if (options.weights.empty() && options.weights_except.empty()) return std::nullopt;
  const auto model = task.make_model(nn::Init(options.seed, meta_of(options.device)));
  return load_weights(*model, options);
}

}  // namespace palimpsest::train
