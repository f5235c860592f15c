// Trains RevNet (Gomez et al. 2017) on CIFAR or Fashion-MNIST, under the memory policy that --memory names.
//
//   cifar_revnet --memory reversible --grid 16 --epochs 3

#include <palimpsest/nn/models/revnet.hpp>
#include "examples/flags/example.hpp"

using namespace palimpsest;

int main(int argc, char** argv) {
  std::int64_t depth = 110;
  bool bottleneck = false;
  std::string grid;

  flags::Example example("cifar_revnet", "Trains a reversible residual network on 32x32 images.");
  example.add("--depth", depth, "N", "layers")->check(flags::whole_numbers(1, 20000));
  example.add_switch("--bottleneck", bottleneck, "residual functions of three convolutions instead of two");
  example
      .add("--grid", grid, "S",
           "round streams to multiples of 2^-S: they are then reversed without error; auto: the finest grid that each "
           "stage's streams allow (default: off)")
      ->check(flags::whole_numbers(0, 23, "auto"));

  flags::Options& options = example.options();
  options.batch_size = 100;
  options.epochs = 160;  // the paper's 80,000 steps on CIFAR
  options.weight_decay = 2e-4;
  example.defaults = {.nesterov = false, .decay_norm_and_bias = false, .crop_padding = 2, .subtract_mean_image = true};

  example.model_name = [&] { return concat_text("RevNet-", depth); };
  example.make_model = [&](const flags::DataFacts& data, std::int64_t layers, nn::Init init) {
    nn::ResidualOptions spec = nn::RevNet::cifar(layers, bottleneck);
    spec.image_channels = data.channels;
    spec.classes = data.classes;
    spec.chooses_grid = grid == "auto";
    if (!grid.empty() && !spec.chooses_grid) spec.grid = std::stoi(grid);
    return std::make_unique<nn::RevNet>(spec, std::move(init));
  };
  example.depths = [&] {
    return reports::Depths{.given = depth, .first = bottleneck ? 20 : 14, .step = bottleneck ? 18 : 12};
  };
  return example.run(argc, argv);
}
