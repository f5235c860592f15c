// Trains the networks that Huang et al. 2017, Gomez et al. 2017 and He et al. 2015 have for ImageNet, on a folder of
// pictures, under the memory policy that --memory names.
//
//   imagenet --data ~/imagenet --arch densenet121 --memory shared --plan

#include <filesystem>
#include <optional>
#include <span>

#include <palimpsest/storage/safetensors.hpp>
#include "examples/flags/architectures.hpp"
#include "examples/flags/example.hpp"

using namespace palimpsest;

namespace {

/// Flags that are not given follow the file of weights: they are of the network that it has, and an evaluation is of
/// the pictures that its training has left out. Returns the names of its classes, if it has them.
std::vector<std::string> follow_weights(flags::Example& example, std::string& arch, flags::NetForm& form) {
  flags::Options& options = example.options();
  const storage::SafetensorsReader file(options.weights);
  const flags::KnownFacts known(file.metadata());
  if (const std::optional<std::string> flag = known.architecture_flag(); flag && options.weights_except.empty()) {
    if (example.given("--arch") && arch != *flag) {
      throw flags::UsageError(concat_text(options.weights, ": is of ", *flag, ", --arch is ", arch));
    }
    arch = known.architecture(*flag, form).flag;
  }
  if (!example.given("--image-size")) options.image_size = known.image_size().value_or(options.image_size);
  if (options.evaluate_alone && !example.given("--seed")) options.seed = known.split_seed().value_or(options.seed);
  return known.class_names();
}

/// "a, b, c, d, e and 95 more".
std::string few_of(const std::vector<std::string>& names) {
  constexpr std::size_t most = 5;
  if (names.size() <= most) return join(names);
  return concat_text(join(std::span(names).first(most)), " and ", names.size() - most, " more");
}

/// Throws DataError if an evaluation's folder has other classes than the weights.
void check_classes(const flags::Options& options, const std::vector<std::string>& known) {
  if (!options.evaluate_alone || !options.folder || known.empty() || known == options.folder->training.classes) return;
  throw DataError(concat_text(options.weights, ": is of the classes ", few_of(known), ", ", options.data, " has ",
                              few_of(options.folder->training.classes)));
}

}  // namespace

int main(int argc, char** argv) {
  const flags::Architecture* chosen = &flags::architectures().front();
  std::string arch = chosen->flag;
  flags::NetForm form;

  flags::Example example("imagenet", "Trains a network for ImageNet, or for another folder of pictures.");
  flags::Options& options = example.options();
  options.data = "synthetic";
  options.takes_folders = true;
  options.image_size = 224;
  options.classes = 1000;
  options.batch_size = 256;
  options.epochs = chosen->recipe.epochs;
  options.weight_decay = 1e-4;
  example.set_step_schedule("as in the network's paper");

  example.add("--arch", arch, "NAME", "network, with its paper's recipe: " + join(flags::architecture_flags()))
      ->check(flags::one_of(flags::architecture_flags()));
  flags::add_form_flags(form, [&](const std::string& flag, auto& variable, const char* type, const std::string& what) {
    return example.add(flag, variable, type, what);
  });
  example.add("--image-size", options.image_size, "N", "height and width of images")
      ->check(flags::whole_numbers(8, 4096));
  example.add("--classes", options.classes, "N", "classes of synthetic images")
      ->check(flags::whole_numbers(2, 100'000));
  example
      .add("--grid", form.grid, "S",
           "of a RevNet: round streams to multiples of 2^-S, which are then reversed without error; auto: the finest "
           "grid that each stage's streams allow (default: off)")
      ->check(flags::whole_numbers(0, 23, "auto"));

  std::vector<std::string> known_classes;
  example.when_parsed = [&] {
    if (!options.weights.empty()) known_classes = follow_weights(example, arch, form);
    chosen = &flags::architecture(arch, form);
    if (!example.given("--epochs")) options.epochs = chosen->recipe.epochs;
    example.defaults = chosen->recipe.training;
  };
  example.model_name = [&] { return chosen->name; };
  example.make_model = [&](const flags::DataFacts& data, std::int64_t, nn::Init init) {
    check_classes(options, known_classes);
    form.image_channels = data.channels;
    form.classes = data.classes;
    return chosen->make(form, std::move(init));
  };
  example.metadata = [&] {
    const bool split = options.folder && !std::filesystem::is_directory(std::filesystem::path(options.data) / "train");
    return flags::facts_of(*chosen, form, options.image_size,
                           options.folder ? options.folder->training.classes : std::vector<std::string>(),
                           split ? std::optional(options.seed) : std::nullopt);
  };
  return example.run(argc, argv);
}
