// Trains the networks that Huang et al. 2017, Gomez et al. 2017 and He et al. 2015 have for ImageNet, under the memory
// policy that --memory names.
//
//   imagenet --arch densenet121 --memory shared --plan

#include <palimpsest/nn/models/densenet.hpp>
#include <palimpsest/nn/models/imagenet_resnet.hpp>
#include <palimpsest/nn/models/resnet.hpp>
#include <palimpsest/nn/models/revnet.hpp>
#include "examples/flags/example.hpp"

using namespace palimpsest;

namespace {

/// The training that a paper has for its networks, of 1,281,167 images.
struct Recipe {
  std::int64_t epochs;
  flags::TrainingDefaults training;
};

/// The rate falls every 30 of 90 epochs, all parameters decay.
const Recipe densenet_recipe = {
    90, {.nesterov = true, .decay_norm_and_bias = true, .crop_padding = 16, .milestones = {1.0 / 3, 2.0 / 3}}};
/// As before, without Nesterov.
const Recipe torchvision_recipe = {
    90, {.nesterov = false, .decay_norm_and_bias = true, .crop_padding = 16, .milestones = {1.0 / 3, 2.0 / 3}}};
/// The rate falls after 160,000, 320,000 and 480,000 of 600,000 steps; weights of convolutions and of the linear layer
/// decay.
const Recipe revnet_recipe = {120,
                              {.nesterov = false,
                               .decay_norm_and_bias = false,
                               .crop_padding = 16,
                               .milestones = {4.0 / 15, 8.0 / 15, 12.0 / 15}}};

/// The parts of a network that do not follow from its name.
struct Form {
  std::int64_t image_channels;
  std::int64_t classes;
  std::string grid;  // of a RevNet
};

using MakeNet = std::function<std::unique_ptr<nn::Classifier>(const Form& form, nn::Init init)>;

struct Architecture {
  std::string flag;
  std::string name;
  const Recipe& recipe;
  MakeNet make;
};

template <class Net, class Spec>
std::unique_ptr<nn::Classifier> make_net(Spec spec, const Form& form, nn::Init init) {
  spec.image_channels = form.image_channels;
  spec.classes = form.classes;
  return std::make_unique<Net>(spec, std::move(init));
}

Architecture densenet(std::int64_t depth, std::int64_t growth = 0) {
  const std::string number = std::to_string(depth);
  const std::string width = growth != 0 ? "-k" + std::to_string(growth) : "";
  return {"densenet" + number + width, "DenseNet-" + number + width, densenet_recipe,
          [=](const Form& form, nn::Init init) {
            return make_net<nn::DenseNet>(nn::DenseNetOptions::imagenet(depth, growth), form, std::move(init));
          }};
}

Architecture resnet(std::int64_t depth) {
  const std::string number = std::to_string(depth);
  return {"resnet" + number, "ResNet-" + number, torchvision_recipe, [=](const Form& form, nn::Init init) {
            return make_net<nn::ImageNetResNet>(nn::ImageNetResNetOptions::of_depth(depth), form, std::move(init));
          }};
}

Architecture preresnet(std::int64_t depth) {
  const std::string number = std::to_string(depth);
  return {"preresnet" + number, "PreResNet-" + number, revnet_recipe, [=](const Form& form, nn::Init init) {
            return make_net<nn::ResNet>(nn::ResNet::imagenet(depth), form, std::move(init));
          }};
}

Architecture revnet(std::int64_t depth) {
  const std::string number = std::to_string(depth);
  return {"revnet" + number, "RevNet-" + number, revnet_recipe, [=](const Form& form, nn::Init init) {
            nn::ResidualOptions spec = nn::RevNet::imagenet(depth);
            spec.chooses_grid = form.grid == "auto";
            if (!form.grid.empty() && !spec.chooses_grid) spec.grid = std::stoi(form.grid);
            return make_net<nn::RevNet>(spec, form, std::move(init));
          }};
}

std::vector<Architecture> architectures() {
  return {densenet(121), densenet(169), densenet(201), densenet(161),  densenet(232), densenet(264), densenet(264, 48),
          resnet(50),    resnet(101),   preresnet(50), preresnet(101), revnet(56),    revnet(104)};
}

std::vector<std::string> flags_of(const std::vector<Architecture>& all) {
  std::vector<std::string> names;
  for (const Architecture& each : all) names.push_back(each.flag);
  return names;
}

}  // namespace

int main(int argc, char** argv) {
  const std::vector<Architecture> all = architectures();
  const Architecture* chosen = all.data();
  std::string arch = chosen->flag;
  std::string grid;

  flags::Example example("imagenet", "Trains a network for ImageNet.");
  flags::Options& options = example.options();
  options.data = "synthetic";
  options.image_size = 224;
  options.classes = 1000;
  options.batch_size = 256;
  options.epochs = chosen->recipe.epochs;
  options.weight_decay = 1e-4;
  example.set_step_schedule("as in the network's paper");

  example.add("--arch", arch, "NAME", "network, with its paper's recipe: " + join(flags_of(all)))
      ->check(flags::one_of(flags_of(all)));
  example.add("--image-size", options.image_size, "N", "height and width of images")
      ->check(flags::whole_numbers(32, 4096));
  example.add("--classes", options.classes, "N", "classes of synthetic images")
      ->check(flags::whole_numbers(2, 100'000));
  example
      .add("--grid", grid, "S",
           "of a RevNet: round streams to multiples of 2^-S, which are then reversed without error; auto: the finest "
           "grid that each stage's streams allow (default: off)")
      ->check(flags::whole_numbers(0, 23, "auto"));

  example.when_parsed = [&] {
    chosen = &*std::find_if(all.begin(), all.end(), [&](const Architecture& each) { return each.flag == arch; });
    if (!grid.empty() && !arch.starts_with("revnet")) throw ValueError("--grid is for a RevNet, and this is " + arch);
    if (!example.given("--epochs")) options.epochs = chosen->recipe.epochs;
    example.defaults = chosen->recipe.training;
  };
  example.model_name = [&] { return chosen->name; };
  example.make_model = [&](const flags::DataFacts& data, std::int64_t, nn::Init init) {
    return chosen->make({data.channels, data.classes, grid}, std::move(init));
  };
  return example.run(argc, argv);
}
