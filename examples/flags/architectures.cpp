#include "examples/flags/architectures.hpp"

#include <algorithm>
#include <charconv>
#include <sstream>
#include <utility>

#include <palimpsest/core/error.hpp>
#include <palimpsest/nn/models/densenet.hpp>
#include <palimpsest/nn/models/imagenet_resnet.hpp>
#include <palimpsest/nn/models/resnet.hpp>
#include <palimpsest/nn/models/revnet.hpp>

namespace palimpsest::flags {
namespace {

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

template <class Net, class Spec>
std::unique_ptr<nn::Classifier> make_net(Spec spec, const NetForm& form, nn::Init init) {
  spec.image_channels = form.image_channels;
  spec.classes = form.classes;
  return std::make_unique<Net>(spec, std::move(init));
}

constexpr const char* free_densenet = "densenet";

/// A network of the form's layers: smaller than the paper's, for small pictures and few classes.
Architecture densenet_of_form() {
  return {free_densenet, "DenseNet", densenet_recipe, [](const NetForm& form, nn::Init init) {
            nn::DenseNetOptions spec;
            spec.layers = form.layers;
            spec.growth_rate = form.growth;
            spec.stem_channels = 2 * form.growth;
            spec.imagenet_stem = true;
            return make_net<nn::DenseNet>(std::move(spec), form, std::move(init));
          }};
}

Architecture densenet(std::int64_t depth, std::int64_t growth = 0) {
  const std::string number = std::to_string(depth);
  const std::string width = growth != 0 ? "-k" + std::to_string(growth) : "";
  return {"densenet" + number + width, "DenseNet-" + number + width, densenet_recipe,
          [=](const NetForm& form, nn::Init init) {
            return make_net<nn::DenseNet>(nn::DenseNetOptions::imagenet(depth, growth), form, std::move(init));
          }};
}

Architecture resnet(std::int64_t depth) {
  const std::string number = std::to_string(depth);
  return {"resnet" + number, "ResNet-" + number, torchvision_recipe, [=](const NetForm& form, nn::Init init) {
            return make_net<nn::ImageNetResNet>(nn::ImageNetResNetOptions::of_depth(depth), form, std::move(init));
          }};
}

Architecture preresnet(std::int64_t depth) {
  const std::string number = std::to_string(depth);
  return {"preresnet" + number, "PreResNet-" + number, revnet_recipe, [=](const NetForm& form, nn::Init init) {
            return make_net<nn::ResNet>(nn::ResNet::imagenet(depth), form, std::move(init));
          }};
}

bool is_revnet(const std::string& flag) { return flag.starts_with("revnet"); }

Architecture revnet(std::int64_t depth) {
  const std::string number = std::to_string(depth);
  return {"revnet" + number, "RevNet-" + number, revnet_recipe, [=](const NetForm& form, nn::Init init) {
            nn::ResidualOptions spec = nn::RevNet::imagenet(depth);
            spec.chooses_grid = form.grid == "auto";
            if (!form.grid.empty() && !spec.chooses_grid) spec.grid = std::stoi(form.grid);
            return make_net<nn::RevNet>(spec, form, std::move(init));
          }};
}

std::int64_t whole_number(const std::string& text, const std::string& what) {
  std::int64_t number = 0;
  const char* const end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, number);
  if (error != std::errc() || stop != end || number < 1) {
    throw DataError(concat_text("the file says of its network: ", what, " ", text, ", expected a positive number"));
  }
  return number;
}

std::vector<std::string> split(const std::string& text, char separator) {
  std::vector<std::string> parts;
  std::istringstream in(text);
  for (std::string part; std::getline(in, part, separator);) parts.push_back(part);
  return parts;
}

std::string layers_text(const std::vector<std::int64_t>& layers) {
  std::vector<std::string> texts;
  for (const std::int64_t count : layers) texts.push_back(std::to_string(count));
  return join(texts, ",");
}

}  // namespace

const std::vector<Architecture>& architectures() {
  static const std::vector<Architecture> all = {
      densenet(121), densenet(169), densenet(201), densenet(161),  densenet(232), densenet(264), densenet(264, 48),
      resnet(50),    resnet(101),   preresnet(50), preresnet(101), revnet(56),    revnet(104),   densenet_of_form()};
  return all;
}

std::vector<std::string> architecture_flags() {
  std::vector<std::string> names;
  for (const Architecture& each : architectures()) names.push_back(each.flag);
  return names;
}

const Architecture& architecture(const std::string& flag, const NetForm& form) {
  const auto found = std::find_if(architectures().begin(), architectures().end(),
                                  [&](const Architecture& each) { return each.flag == flag; });
  if (found == architectures().end()) throw ValueError(concat_text("there is no architecture '", flag, "'"));
  if (!form.grid.empty() && !is_revnet(flag)) throw ValueError("--grid is for a RevNet, and this is " + flag);
  const bool is_free = flag == free_densenet;
  if (is_free && form.layers.empty()) throw ValueError("--arch densenet takes --layers, as 6,12,24,16");
  if (!is_free && !form.layers.empty()) throw ValueError("--layers is for --arch densenet, and this is " + flag);
  return *found;
}

storage::Metadata facts_of(const Architecture& architecture, const NetForm& form, std::int64_t image_size,
                           const std::vector<std::string>& class_names, std::optional<std::uint64_t> split_seed) {
  storage::Metadata facts = {{"architecture", architecture.flag}, {"image_size", std::to_string(image_size)}};
  if (!form.layers.empty()) {
    facts["layers"] = layers_text(form.layers);
    facts["growth"] = std::to_string(form.growth);
  }
  if (split_seed) facts["split_seed"] = std::to_string(*split_seed);
  if (!class_names.empty()) facts["classes"] = join(class_names, "\n");
  return facts;
}

std::optional<std::string> KnownFacts::find(const std::string& key) const {
  const auto found = metadata_.find(key);
  return found == metadata_.end() ? std::nullopt : std::optional(found->second);
}

const Architecture& KnownFacts::architecture(const std::string& flag, NetForm& form) const {
  const std::optional<std::string> known = find("architecture");
  if (flag.empty() && !known) throw ValueError("the weights do not say of which network they are: --arch NAME does");
  const std::string& chosen = flag.empty() ? *known : flag;
  const std::optional<std::string> layers = find("layers");
  if (form.layers.empty() && layers && chosen == known) {
    for (const std::string& count : split(*layers, ',')) form.layers.push_back(whole_number(count, "layers"));
    form.growth = whole_number(find("growth").value_or(""), "growth");
  }
  try {
    return flags::architecture(chosen, form);
  } catch (const ValueError& error) {
    if (!flag.empty()) throw;
    throw DataError(concat_text("the file says of its network: ", error.what()));
  }
}

std::optional<std::int64_t> KnownFacts::image_size() const {
  const std::optional<std::string> size = find("image_size");
  return size ? std::optional(whole_number(*size, "image_size")) : std::nullopt;
}

std::optional<std::string> KnownFacts::architecture_flag() const {
  const std::optional<std::string> named = find("architecture");
  const std::vector<std::string> flags = architecture_flags();
  return named && std::find(flags.begin(), flags.end(), *named) != flags.end() ? named : std::nullopt;
}

std::optional<std::uint64_t> KnownFacts::split_seed() const {
  const std::optional<std::string> seed = find("split_seed");
  return seed ? std::optional(static_cast<std::uint64_t>(whole_number(*seed, "split_seed"))) : std::nullopt;
}

std::vector<std::string> KnownFacts::class_names() const {
  const std::optional<std::string> names = find("classes");
  return names ? split(*names, '\n') : std::vector<std::string>();
}

std::int64_t KnownFacts::classes_of(const storage::SafetensorsReader& file) {
  for (const storage::StoredTensor& tensor : file.tensors()) {
    const bool is_classifier = tensor.name == "classifier.bias" || tensor.name == "fc.bias";
    if (is_classifier && tensor.shape.size() == 1 && tensor.shape[0] >= 2) return tensor.shape[0];
  }
  throw DataError(file.file() + ": has no classifier.bias, from whose length the number of classes follows");
}

}  // namespace palimpsest::flags
