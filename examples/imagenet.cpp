// Trains the networks that Huang et al. 2017, Gomez et al. 2017 and He et al. 2015 have for ImageNet, on a folder of
// pictures, under the memory policy that --memory names.
//
//   imagenet --data ~/imagenet --arch densenet121 --memory shared --plan

#include "examples/flags/architectures.hpp"
#include "examples/flags/example.hpp"

using namespace palimpsest;

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

  example.when_parsed = [&] {
    chosen = &flags::architecture(arch, form);
    if (!example.given("--epochs")) options.epochs = chosen->recipe.epochs;
    example.defaults = chosen->recipe.training;
  };
  example.model_name = [&] { return chosen->name; };
  example.make_model = [&](const flags::DataFacts& data, std::int64_t, nn::Init init) {
    form.image_channels = data.channels;
    form.classes = data.classes;
    return chosen->make(form, std::move(init));
  };
  example.metadata = [&] {
    return flags::facts_of(*chosen, form, options.image_size,
                           options.folder ? options.folder->training.classes : std::vector<std::string>());
  };
  return example.run(argc, argv);
}
