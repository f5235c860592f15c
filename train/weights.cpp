#include <palimpsest/train/weights.hpp>

#include <palimpsest/core/device.hpp>
#include <palimpsest/core/error.hpp>
#include <palimpsest/train/checkpoint_file.hpp>

namespace palimpsest::train {

namespace {

/// A part that is all which does not fit is most likely a classifier of other classes, which may be left out.
storage::LoadReport load_or_advise(storage::SafetensorsReader& reader, const nn::Module& model,
                                   const storage::LoadOptions& how, const OptionNames& names) {
  try {
    return storage::load_weights(reader, storage::state_of(model), how);
  } catch (const storage::MisfitError& error) {
    if (error.module().empty()) throw;
    throw DataError(
        concat_text(error.what(), "; ", names.weights_except, " '", error.module(), ".*' takes all others"));
  }
}

}  // namespace

std::optional<storage::LoadReport> load_weights(const nn::Module& model, const Options& options) {
  if (!options.weights.empty()) {
    storage::SafetensorsReader reader(options.weights);
    storage::LoadOptions how{.except = options.weights_except};
    const std::vector<std::string> beside = beside_the_model(reader);
    how.except.insert(how.except.end(), beside.begin(), beside.end());
    storage::LoadReport report = load_or_advise(reader, model, how, options.names);
    // Nobody asked for what else is in a checkpoint.
    std::erase_if(report.unused,
                  [&](const std::string& name) { return !beside.empty() && name.find('/') != std::string::npos; });
    return report;
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
