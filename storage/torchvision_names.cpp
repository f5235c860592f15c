#include <palimpsest/storage/torchvision_names.hpp>

#include <algorithm>
#include <charconv>
#include <iterator>

namespace palimpsest::storage {
namespace {

bool any_begins(std::span<const nn::NamedTensor> tensors, std::string_view begin) {
  return std::any_of(tensors.begin(), tensors.end(),
                     [&](const nn::NamedTensor& t) { return t.name.starts_with(begin); });
}

/// The parts of a name between its dots.
std::vector<std::string> parts_of(std::string_view name) {
  std::vector<std::string> parts;
  while (true) {
    const std::size_t dot = name.find('.');
    parts.emplace_back(name.substr(0, dot));
    if (dot == std::string_view::npos) return parts;
    name.remove_prefix(dot + 1);
  }
}

/// The number behind `word` in a part like "stage2"; none if the part is another.
std::optional<int> number_behind(std::string_view word, std::string_view part) {
  if (!part.starts_with(word)) return std::nullopt;
  int number = 0;
  const char* const end = part.data() + part.size();
  const auto [stop, error] = std::from_chars(part.data() + word.size(), end, number);
  if (error != std::errc() || stop != end) return std::nullopt;
  return number;
}

/// Replaces "from3" by "to3".
void rename(std::string& part, std::string_view from, std::string_view to) {
  if (const std::optional<int> number = number_behind(from, part)) part = std::string(to) + std::to_string(*number);
}

std::string densenet_name(std::string_view own) {
  std::vector<std::string> parts = parts_of(own);
  if (parts.front() == "classifier") return std::string(own);
  if (parts.front() == "norm") parts.front() = "norm5";  // whatever the number of blocks
  for (std::string& part : parts) {
    rename(part, "dense", "denseblock");
    rename(part, "layer", "denselayer");
  }
  return "features." + join(parts, ".");
}

std::string resnet_name(std::string_view own) {
  std::vector<std::string> parts = parts_of(own);
  std::string& first = parts.front();
  if (first == "conv0") first = "conv1";
  if (first == "norm0") first = "bn1";
  if (first == "classifier") first = "fc";
  for (auto part = parts.begin(); part != parts.end(); ++part) {
    rename(*part, "stage", "layer");
    rename(*part, "norm", "bn");
    if (const std::optional<int> unit = number_behind("unit", *part)) *part = std::to_string(*unit - 1);
    if (*part != "shortcut" || std::next(part) == parts.end()) continue;
    *part++ = "downsample";
    *part = std::string(1, *part == "conv" ? '0' : '1');
  }
  return join(parts, ".");
}

}  // namespace

std::optional<std::vector<std::string>> torchvision_names(std::span<const nn::NamedTensor> tensors) {
  const bool densenet = any_begins(tensors, "dense1.layer1.");
  if (!densenet && !any_begins(tensors, "stage1.unit1.conv1.")) return std::nullopt;
  std::vector<std::string> names;
  for (const nn::NamedTensor& tensor : tensors) {
    names.push_back(densenet ? densenet_name(tensor.name) : resnet_name(tensor.name));
  }
  return names;
}

std::string modern_spelling(std::string_view name) {
  std::string modern(name);
  const std::size_t layer = name.find("denselayer");
  if (layer == std::string_view::npos) return modern;
  for (const std::string_view old : {".norm.1.", ".norm.2.", ".conv.1.", ".conv.2."}) {
    const std::size_t at = name.find(old, layer);
    if (at != std::string_view::npos) return modern.erase(at + std::string_view(".norm").size(), 1);
  }
  return modern;
}

bool counts_batches(std::string_view name) { return name.ends_with(".num_batches_tracked"); }

}  // namespace palimpsest::storage
