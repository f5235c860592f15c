#pragma once

// Tensors in files by the names that a module's parameters() and buffers() have.

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <palimpsest/core/error.hpp>
#include <palimpsest/nn/module.hpp>
#include <palimpsest/storage/safetensors.hpp>

namespace palimpsest::storage {

/// The names of tensors in a file.
enum class Names : std::uint8_t {
  Own,          ///< as parameters() and buffers() have them: "dense1.layer2.conv1.weight"
  Torchvision,  ///< as torchvision has them for its DenseNets and ResNets (torchvision_names.hpp)
};

/// The parameters and buffers of a module, in this order.
std::vector<nn::NamedTensor> state_of(const nn::Module& module);

/// Writes tensors, float32, float64 and int32, in the logical order of their elements: a convolution's weight as (out,
/// in, height, width) whatever its layout in memory. The file is whole or as it was. Takes the memory of two pieces
/// (piece_bytes), and on CUDA that of one tensor on the host. Throws Error where the file cannot be written, ValueError
/// for two tensors of one name and for Names::Torchvision of a model that it does not have, DeviceError on a meta
/// device.
void save_weights(const std::string& file, const std::vector<nn::NamedTensor>& tensors, const Metadata& metadata = {},
                  Names names = Names::Own);
/// The same of a module's parameters and buffers.
void save_weights(const std::string& file, const nn::Module& module, const Metadata& metadata = {},
                  Names names = Names::Own);
/// The first part of it: the tensors may change when it returns (see stage_safetensors).
PendingFile stage_weights(const WholeFile& file, const std::vector<nn::NamedTensor>& tensors,
                          const Metadata& metadata = {}, Names names = Names::Own);
/// The same tensors as stage_safetensors() takes them.
std::vector<TensorToStore> tensors_to_store(const std::vector<nn::NamedTensor>& tensors, Names names = Names::Own);

struct LoadOptions {
  /// Patterns of names, in the module or in the file (*, ? and [a-z], as a shell has them), of tensors that keep their
  /// values, whether or not the file has them.
  std::vector<std::string> except = {};
  /// Nullopt: whichever finds more of the names.
  std::optional<Names> names = std::nullopt;
};

/// The result of load_weights(), by names of the module.
struct LoadReport {
  std::vector<std::string> taken;
  std::vector<std::string> left;    ///< kept their values, by LoadOptions::except
  std::vector<std::string> unused;  ///< tensors of the file, by its names, that the same patterns leave out

  /// "364 tensors taken, 2 left as they are (classifier.bias, classifier.weight)".
  std::string describe() const;
};

/// A file whose tensors do not fit a module's.
class MisfitError : public DataError {
 public:
  MisfitError(const std::string& what, std::string module) : DataError(what), module_(std::move(module)) {}

  /// The part of the module that has all which does not fit, where that has another form and nothing is missing or
  /// unexpected: "classifier" of a network for other classes; else empty.
  const std::string& module() const { return module_; }

 private:
  std::string module_;
};

/// Reads tensors from a file into these. Half and bfloat16 are widened, float64 is rounded to a float32 tensor's. All
/// must be there with their shapes, and nothing else but PyTorch's num_batches_tracked: what is missing, unexpected or
/// misshapen is one MisfitError that counts all of it and names the first of each kind; damage that the file's
/// checksums show is a DataError; nothing has changed then. Tensors on a meta device are compared by names and shapes
/// alone. Takes the memory of one piece, and on CUDA that of one tensor on the host. Throws DataError as the reader
/// does, ValueError for a pattern that matches nothing; where the disk fails in the middle, after all has been read
/// once, some tensors have their new values.
LoadReport load_weights(const std::string& file, const std::vector<nn::NamedTensor>& tensors,
                        const LoadOptions& options = {});
/// The same into a module's parameters and buffers.
LoadReport load_weights(const std::string& file, const nn::Module& module, const LoadOptions& options = {});
/// The same from a file that is open.
LoadReport load_weights(SafetensorsReader& reader, const std::vector<nn::NamedTensor>& tensors,
                        const LoadOptions& options = {});

}  // namespace palimpsest::storage
