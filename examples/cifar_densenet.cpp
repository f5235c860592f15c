// Trains DenseNet-BC (Huang et al. 2017) on CIFAR or Fashion-MNIST, under the memory policy that --memory names.
//
//   cifar_densenet --memory shared --epochs 3

#include <palimpsest/nn/models/densenet.hpp>
#include "examples/flags/example.hpp"

using namespace palimpsest;

int main(int argc, char** argv) {
  std::int64_t depth = 100;
  std::int64_t growth = 12;
  bool bottleneck = true;
  std::optional<double> dropout;

  flags::Example example("cifar_densenet", "Trains a DenseNet on 32x32 images.");
  example.add("--depth", depth, "N", "layers")->check(flags::whole_numbers(1, 5000));
  example.add("--growth", growth, "K", "channels that each layer adds")->check(flags::whole_numbers(1, 4096));
  example.add_switch("--bottleneck", bottleneck, "DenseNet-BC, or the plain DenseNet");
  example.add("--dropout", dropout, "P",
              "after every convolution but the first (default: 0.2 with --no-augment, else 0)");

  flags::Options& options = example.options();
  options.batch_size = 64;
  options.epochs = 300;
  options.weight_decay = 1e-4;
  example.defaults = {.nesterov = true, .decay_norm_and_bias = true, .crop_padding = 4};

  example.model_name = [&] { return concat_text("DenseNet", bottleneck ? "-BC" : "", "(", depth, ",", growth, ")"); };
  example.make_model = [&](const flags::DataFacts& data, std::int64_t layers, nn::Init init) {
    nn::DenseNetOptions spec = nn::DenseNetOptions::cifar(layers, growth, bottleneck);
    spec.image_channels = data.channels;
    spec.classes = data.classes;
    spec.dropout = dropout.value_or(options.augment ? 0.0 : 0.2);
    return std::make_unique<nn::DenseNet>(spec, std::move(init));
  };
  example.depths = [&] {
    return reports::Depths{.given = depth, .first = bottleneck ? 10 : 7, .step = bottleneck ? 6 : 3};
  };
  return example.run(argc, argv);
}
