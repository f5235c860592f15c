#include <palimpsest/storage/weights.hpp>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <type_traits>
#include <utility>

#include <palimpsest/core/device.hpp>
#include <palimpsest/core/error.hpp>
#include <palimpsest/core/layout.hpp>
#include <palimpsest/storage/match.hpp>

namespace palimpsest::storage {
namespace {

/// Calls body(zero) with the element type of a tensor.
template <class Body>
void with_element(Dtype dtype, const Body& body) {
  if (dtype == Dtype::Float32) return body(float{});
  if (dtype == Dtype::Float64) return body(double{});
  return body(std::int32_t{});
}

/// Hands a tensor's elements over in logical order.
template <class T>
void put_elements(const Tensor& tensor, const PutBytes& put) {
  const Shape& shape = tensor.shape();
  const ConstView from = tensor.view();
  std::vector<T> host;  // a device's tensor comes as a whole
  if (tensor.device() != Device::Cpu) {
    host.resize(static_cast<std::size_t>(shape.count()));
    copy_bytes(host.data(), Device::Cpu, from.data, from.device, host.size() * sizeof(T));
  }
  const T* const elements = host.empty() ? from.as<T>() : host.data();
  constexpr auto most = static_cast<std::int64_t>(piece_bytes / sizeof(T));
  std::vector<T> piece;
  for (std::int64_t first = 0; first < shape.count(); first += most) {
    const std::int64_t count = std::min(most, shape.count() - first);
    piece.resize(static_cast<std::size_t>(count));
    for_each_element(shape, first, count, [&](std::int64_t logical, std::int64_t memory) {
      piece[static_cast<std::size_t>(logical - first)] = elements[memory];
    });
    put(std::as_bytes(std::span<const T>(piece)));
  }
}

/// The nearest float32; infinite beyond its range.
template <class T>
T rounded(double value) {
  if constexpr (std::is_same_v<T, float>) {
    constexpr double most = std::numeric_limits<float>::max();
    if (std::abs(value) > most)
      return std::copysign(std::numeric_limits<float>::infinity(), static_cast<float>(value > 0 ? 1 : -1));
  }
  return static_cast<T>(value);
}

/// Fills a tensor from a file's bytes.
template <class T>
void read_elements(SafetensorsReader& reader, const StoredTensor& stored, const Tensor& tensor) {
  const Shape& shape = tensor.shape();
  const View to = tensor.mutable_view();
  std::vector<T> host;  // a device's tensor goes there as a whole
  if (tensor.device() != Device::Cpu) host.resize(static_cast<std::size_t>(shape.count()));
  T* const elements = host.empty() ? to.as<T>() : host.data();
  const std::size_t width = size_of(stored.type);
  const bool as_it_is = stored.type == element_type(dtype_of<T>);
  std::int64_t first = 0;
  reader.read_all(stored, [&](std::span<const std::byte> piece) {
    const auto count = static_cast<std::int64_t>(piece.size() / width);
    for_each_element(shape, first, count, [&](std::int64_t logical, std::int64_t memory) {
      const std::byte* const from = piece.data() + static_cast<std::size_t>(logical - first) * width;
      if (as_it_is) {
        std::memcpy(elements + memory, from, sizeof(T));
      } else {
        elements[memory] = rounded<T>(number_at(stored.type, from));
      }
    });
    first += count;
  });
  if (!host.empty()) copy_bytes(to.data, to.device, host.data(), Device::Cpu, host.size() * sizeof(T));
}

}  // namespace

std::vector<nn::NamedTensor> state_of(const nn::Module& module) {
  std::vector<nn::NamedTensor> tensors = module.parameters();
  for (nn::NamedTensor& buffer : module.buffers()) tensors.push_back(std::move(buffer));
  return tensors;
}

std::vector<TensorToStore> tensors_to_store(const std::vector<nn::NamedTensor>& tensors, Names names) {
  std::vector<std::string> in_file = names_in_file(tensors, names);
  std::vector<TensorToStore> all;
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const Tensor& tensor = tensors[i].tensor;
    if (is_meta(tensor.device())) {
      throw DeviceError(concat_text("cannot save ", tensors[i].name, ", which has no elements on ", tensor.device()));
    }
    all.push_back({std::move(in_file[i]), element_type(tensor.dtype()), extents_of(tensor.shape()),
                   [tensor](const PutBytes& put) {
                     with_element(tensor.dtype(), [&]<class T>(T) { put_elements<T>(tensor, put); });
                   }});
  }
  return all;
}

PendingFile stage_weights(const WholeFile& file, const std::vector<nn::NamedTensor>& tensors, const Metadata& metadata,
                          Names names) {
  Metadata all = metadata;
  all.emplace("format", "pt");  // for programs around PyTorch that ask whose tensors these are
  return stage_safetensors(file, tensors_to_store(tensors, names), std::move(all));
}

void save_weights(const std::string& file, const std::vector<nn::NamedTensor>& tensors, const Metadata& metadata,
                  Names names) {
  stage_weights(safetensors_file(file), tensors, metadata, names).commit();
}

void save_weights(const std::string& file, const nn::Module& module, const Metadata& metadata, Names names) {
  save_weights(file, state_of(module), metadata, names);
}

std::string LoadReport::describe() const {
  const auto some = [](const std::vector<std::string>& names) { return " (" + join(names) + ")"; };
  std::string text = concat_text(taken.size(), taken.size() == 1 ? " tensor taken" : " tensors taken");
  if (!left.empty()) text += concat_text(", ", left.size(), " left as they are", some(left));
  if (!unused.empty()) text += concat_text(", ", unused.size(), " of the file not used", some(unused));
  return text;
}

LoadReport load_weights(SafetensorsReader& reader, const std::vector<nn::NamedTensor>& tensors,
                        const LoadOptions& options) {
  Match match = match_tensors(reader, tensors, options);
  const bool meta = std::any_of(tensors.begin(), tensors.end(),
                                [](const nn::NamedTensor& tensor) { return is_meta(tensor.tensor.device()); });
  if (meta) return std::move(match.report);
  reader.verify();
  for (const auto& [tensor, stored] : match.pairs) {
    with_element(tensor->dtype(),
                 [&, &to = *tensor, &from = *stored]<class T>(T) { read_elements<T>(reader, from, to); });
  }
  return std::move(match.report);
}

LoadReport load_weights(const std::string& file, const std::vector<nn::NamedTensor>& tensors,
                        const LoadOptions& options) {
  SafetensorsReader reader(file);
  return load_weights(reader, tensors, options);
}

LoadReport load_weights(const std::string& file, const nn::Module& module, const LoadOptions& options) {
  return load_weights(file, state_of(module), options);
}

}  // namespace palimpsest::storage
