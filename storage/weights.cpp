#include <palimpsest/storage/weights.hpp>

#include <fnmatch.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cctype>
#include <cstring>
#include <map>
#include <utility>

#include <palimpsest/core/device.hpp>
#include <palimpsest/core/error.hpp>
#include <palimpsest/core/layout.hpp>

namespace palimpsest::storage {
namespace {

ElementType type_of(Dtype dtype) {
  switch (dtype) {
    case Dtype::Float32:
      return ElementType::F32;
    case Dtype::Float64:
      return ElementType::F64;
    case Dtype::Int32:
      return ElementType::I32;
  }
  throw DtypeError("an unknown element type cannot be written");
}

std::vector<std::int64_t> extents_of(const Shape& shape) {
  std::vector<std::int64_t> extents;
  for (int i = 0; i < shape.rank(); ++i) extents.push_back(shape[i]);
  return extents;
}

/// Calls body(zero) with the element type of a tensor.
template <class Body>
void with_element(Dtype dtype, const Body& body) {
  if (dtype == Dtype::Float32) return body(float{});
  if (dtype == Dtype::Float64) return body(double{});
  return body(std::int32_t{});
}

template <class T>
T read_as(const std::byte* from) {
  T value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

/// IEEE 754's binary16: a sign, 5 bits of exponent, 10 of fraction.
float widened_half(std::uint16_t bits) {
  const std::uint32_t sign = static_cast<std::uint32_t>(bits & 0x8000U) << 16;
  const std::uint32_t exponent = bits >> 10 & 0x1FU;
  const std::uint32_t fraction = bits & 0x3FFU;
  if (exponent == 0x1F) return std::bit_cast<float>(sign | 0x7F800000U | fraction << 13);
  if (exponent != 0) return std::bit_cast<float>(sign | (exponent + 112) << 23 | fraction << 13);
  const float magnitude = static_cast<float>(fraction) * 0x1p-24F;
  return sign != 0 ? -magnitude : magnitude;
}

double number_at(ElementType type, const std::byte* from) {
  switch (type) {
    case ElementType::F64:
      return read_as<double>(from);
    case ElementType::F32:
      return read_as<float>(from);
    case ElementType::F16:
      return widened_half(read_as<std::uint16_t>(from));
    case ElementType::BF16:
      return std::bit_cast<float>(static_cast<std::uint32_t>(read_as<std::uint16_t>(from)) << 16);
    default:
      return read_as<std::int32_t>(from);
  }
}

bool fits(ElementType from, Dtype to) {
  if (to == Dtype::Int32) return from == ElementType::I32;
  return from == ElementType::F64 || from == ElementType::F32 || from == ElementType::F16 || from == ElementType::BF16;
}

/// The bytes of a tensor's elements in logical order.
template <class T>
void write_elements(const Tensor& tensor, std::ostream& out) {
  const std::vector<T> values = tensor.to_vector<T>();
  out.write(reinterpret_cast<const char*>(values.data()), static_cast<std::streamsize>(values.size() * sizeof(T)));
}

/// Fills a tensor from a file's bytes.
template <class T>
void read_elements(SafetensorsReader& reader, const StoredTensor& stored, const Tensor& tensor) {
  const Shape& shape = tensor.shape();
  std::vector<T> host;  // a device's tensor goes there as a whole
  if (tensor.device() != Device::Cpu) host.resize(static_cast<std::size_t>(shape.count()));
  const View to = tensor.mutable_view();
  T* const elements = host.empty() ? to.as<T>() : host.data();
  // Only images are in another order in memory, and each of them by itself.
  const Shape one = shape.rank() == Shape::max_rank ? Shape{1, shape.c(), shape.h(), shape.w()} : shape;
  const auto slice = static_cast<std::size_t>(one.count());
  const std::size_t width = size_of(stored.type);
  std::vector<std::byte> bytes(slice * width);
  for (std::size_t n = 0; n < static_cast<std::size_t>(shape.count() / one.count()); ++n) {
    reader.read(stored, n * bytes.size(), bytes);
    for_each_element(one, [&](std::int64_t logical, std::int64_t memory) {
      const std::byte* const from = bytes.data() + static_cast<std::size_t>(logical) * width;
      T& element = elements[n * slice + static_cast<std::size_t>(memory)];
      // Bits stay as they are, a signalling NaN's too.
      element = stored.type == type_of(dtype_of<T>) ? read_as<T>(from) : static_cast<T>(number_at(stored.type, from));
    });
  }
  if (!host.empty()) copy_bytes(to.data, to.device, host.data(), Device::Cpu, host.size() * sizeof(T));
}

bool matches_one(const std::vector<std::string>& patterns, const std::string& name) {
  return std::any_of(patterns.begin(), patterns.end(), [&](const std::string& pattern) {
    return fnmatch(pattern.c_str(), name.c_str(), 0) == 0;
  });
}

/// The tensors of a file by the names that they have in a module.
std::map<std::string, const StoredTensor*> by_own_names(const SafetensorsReader& reader, Names names) {
  std::map<std::string, const StoredTensor*> found;
  for (const StoredTensor& stored : reader.tensors()) {
    const std::optional<std::string> own = names == Names::Own ? stored.name : own_name(stored.name);
    if (!own) continue;
    if (!found.emplace(*own, &stored).second) {
      throw DataError(concat_text(reader.file(), ": two tensors are ", *own, " here, one of them ", stored.name));
    }
  }
  return found;
}

Names guess(const SafetensorsReader& reader, const std::vector<nn::NamedTensor>& tensors) {
  const auto found = [&](Names names) {
    std::size_t count = 0;
    for (const StoredTensor& stored : reader.tensors()) {
      const std::optional<std::string> own = names == Names::Own ? stored.name : own_name(stored.name);
      count += static_cast<std::size_t>(std::count_if(
          tensors.begin(), tensors.end(), [&](const nn::NamedTensor& tensor) { return own && tensor.name == *own; }));
    }
    return count;
  };
  return found(Names::Torchvision) > found(Names::Own) ? Names::Torchvision : Names::Own;
}

bool starts_with_digit(std::string_view text) {
  return !text.empty() && std::isdigit(static_cast<unsigned char>(text[0])) != 0;
}

/// Replaces `from` by `to` where a part of the path begins with `from` and a number: "dense1" by "denseblock1".
std::string renamed(std::string_view path, std::string_view from, std::string_view to) {
  std::string result;
  for (std::size_t begin = 0; begin <= path.size();) {
    const std::size_t end = std::min(path.find('.', begin), path.size());
    const std::string_view part = path.substr(begin, end - begin);
    if (begin > 0) result += '.';
    const bool hit = part.starts_with(from) && starts_with_digit(part.substr(from.size()));
    result += hit ? std::string(to) + std::string(part.substr(from.size())) : std::string(part);
    begin = end + 1;
  }
  return result;
}

std::string listed(const char* what, std::vector<std::string> names) {
  if (names.empty()) return "";
  std::sort(names.begin(), names.end());
  return concat_text("; ", names.size(), " ", what, ": ", join(names));
}

}  // namespace

std::string torchvision_name(std::string_view own) {
  if (own.starts_with("classifier.")) return std::string(own);
  std::string name = renamed(renamed(own, "dense", "denseblock"), "layer", "denselayer");
  if (name.starts_with("norm.")) name = "norm5" + name.substr(4);
  return "features." + name;
}

std::optional<std::string> own_name(std::string_view torchvision) {
  if (torchvision.ends_with("num_batches_tracked")) return std::nullopt;
  constexpr std::string_view features = "features.";
  if (!torchvision.starts_with(features)) return std::string(torchvision);
  std::string name = renamed(renamed(torchvision.substr(features.size()), "denseblock", "dense"), "denselayer", "layer");
  if (name.starts_with("norm5.")) name = "norm" + name.substr(5);
  for (const std::string_view old : {"norm.1.", "norm.2.", "conv.1.", "conv.2."}) {
    const std::size_t at = name.find(std::string(".") + std::string(old));
    if (at != std::string::npos) name.erase(at + 5, 1);  // the dot between "norm" and its number
  }
  return name;
}

std::vector<nn::NamedTensor> state_of(const nn::Module& module) {
  std::vector<nn::NamedTensor> tensors = module.parameters();
  for (nn::NamedTensor& buffer : module.buffers()) tensors.push_back(std::move(buffer));
  return tensors;
}

void save_weights(const std::string& file, const std::vector<nn::NamedTensor>& tensors, const Metadata& metadata,
                  Names names) {
  std::vector<TensorToStore> all;
  for (const auto& [name, tensor] : tensors) {
    if (is_meta(tensor.device())) {
      throw DeviceError(concat_text("save_weights: ", name, " is on ", tensor.device(), ", where it has no elements"));
    }
    all.push_back({names == Names::Own ? name : torchvision_name(name), type_of(tensor.dtype()),
                   extents_of(tensor.shape()), [&tensor = tensor](std::ostream& out) {
                     with_element(tensor.dtype(), [&]<class T>(T) { write_elements<T>(tensor, out); });
                   }});
  }
  write_safetensors(file, std::move(all), metadata);
}

void save_weights(const std::string& file, const nn::Module& module, const Metadata& metadata, Names names) {
  save_weights(file, state_of(module), metadata, names);
}

std::string LoadReport::describe() const {
  const auto some = [](const std::vector<std::string>& names) { return names.empty() ? "" : " (" + join(names) + ")"; };
  std::string text = concat_text(taken.size(), " tensors taken");
  if (!left.empty()) text += concat_text(", ", left.size(), " left as they are", some(left));
  if (!unused.empty()) text += concat_text(", ", unused.size(), " of the file not used", some(unused));
  return text;
}

LoadReport load_weights(const std::string& file, const std::vector<nn::NamedTensor>& tensors,
                        const LoadOptions& options) {
  SafetensorsReader reader(file);
  std::map<std::string, const StoredTensor*> stored =
      by_own_names(reader, options.names.value_or(guess(reader, tensors)));
  LoadReport report;
  std::vector<std::pair<const nn::NamedTensor*, const StoredTensor*>> pairs;
  std::vector<std::string> missing, misshapen, unexpected;
  for (const nn::NamedTensor& tensor : tensors) {
    if (is_meta(tensor.tensor.device())) throw DeviceError("load_weights: a tensor on a meta device has no elements");
    const auto found = stored.find(tensor.name);
    if (matches_one(options.except, tensor.name)) {
      report.left.push_back(tensor.name);
      if (found != stored.end()) report.unused.push_back(found->second->name);
    } else if (found == stored.end()) {
      missing.push_back(tensor.name);
      continue;
    } else {
      const StoredTensor& in_file = *found->second;
      const Shape& shape = tensor.tensor.shape();
      if (in_file.shape != extents_of(shape) || !fits(in_file.type, tensor.tensor.dtype())) {
        misshapen.push_back(concat_text(tensor.name, " is ", to_string(in_file.type), " (", join(in_file.shape),
                                        "), expected ", tensor.tensor.dtype(), " ", shape));
      }
      pairs.emplace_back(&tensor, &in_file);
      report.taken.push_back(tensor.name);
    }
    if (found != stored.end()) stored.erase(found);
  }
  for (const auto& [name, in_file] : stored) {
    (matches_one(options.except, name) ? report.unused : unexpected).push_back(in_file->name);
  }
  for (const std::string& pattern : options.except) {
    const auto names_one = [&](const nn::NamedTensor& tensor) { return matches_one({pattern}, tensor.name); };
    if (std::none_of(tensors.begin(), tensors.end(), names_one)) {
      throw ValueError(concat_text("load_weights: '", pattern, "' matches no tensor"));
    }
  }
  const std::string offences =
      listed("missing", missing) + listed("unexpected", unexpected) + listed("of another form", misshapen);
  if (!offences.empty()) throw DataError(concat_text(file, " does not fit", offences));
  for (const auto& [tensor, in_file] : pairs) {
    with_element(tensor->tensor.dtype(), [&, &to = tensor->tensor, &from = *in_file]<class T>(T) {
      read_elements<T>(reader, from, to);
    });
  }
  return report;
}

LoadReport load_weights(const std::string& file, const nn::Module& module, const LoadOptions& options) {
  return load_weights(file, state_of(module), options);
}

}  // namespace palimpsest::storage
