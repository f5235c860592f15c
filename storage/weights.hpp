#pragma once

// Weights in files: what a module's parameters() and buffers() are called there.

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <palimpsest/nn/module.hpp>
#include <palimpsest/storage/safetensors.hpp>

namespace palimpsest::storage {

/// The names of tensors in a file.
enum class Names : std::uint8_t {
  Own,          ///< as parameters() and buffers() have them: "dense1.layer2.conv1.weight"
  Torchvision,  ///< as torchvision calls those of a DenseNet: "features.denseblock1.denselayer2.conv1.weight"
};

/// The name of a DenseNet's tensor in torchvision; of any other tensor, its own.
std::string torchvision_name(std::string_view own);
/// The way back, from the spelling of old files too ("denselayer2.norm.1.weight"). Nullopt for what no module here has
/// ("num_batches_tracked").
std::optional<std::string> own_name(std::string_view torchvision);

/// The parameters and buffers of a module, in this order.
std::vector<nn::NamedTensor> state_of(const nn::Module& module);

/// Writes tensors, float32, float64 and int32, in the logical order of their elements: a convolution's weight as (out,
/// in, height, width) whatever its layout in memory. The file is whole or as it was. Takes the memory of one tensor.
/// Throws Error where it cannot be written, ValueError for two tensors of one name, DeviceError on a meta device.
void save_weights(const std::string& file, const std::vector<nn::NamedTensor>& tensors, const Metadata& metadata = {},
                  Names names = Names::Own);
/// The same of a module's parameters and buffers.
void save_weights(const std::string& file, const nn::Module& module, const Metadata& metadata = {},
                  Names names = Names::Own);

struct LoadOptions {
  /// Patterns of names in the module (*, ? and [a-z], as a shell has them) that keep their values, whether or not the
  /// file has them.
  std::vector<std::string> except = {};
  /// Nullopt: whichever finds more of the names.
  std::optional<Names> names = std::nullopt;
};

/// What load_weights() did, by names of the module.
struct LoadReport {
  std::vector<std::string> taken;
  std::vector<std::string> left;    ///< kept their values, by LoadOptions::except
  std::vector<std::string> unused;  ///< tensors of the file, by its names, that the same patterns leave out

  /// "364 tensors taken, 2 left as they are (classifier.bias, classifier.weight)".
  std::string describe() const;
};

/// Reads tensors from a file into these. Half and bfloat16 are widened, float64 is rounded to a float32 tensor's. All
/// must be there with their shapes, and nothing else: what is missing, unexpected or misshapen is one DataError that
/// lists all of it, and nothing has changed then. Takes the memory of one tensor. Throws DataError as the reader does,
/// ValueError for a pattern that matches nothing; where the disk fails in the middle, some tensors have their new values.
LoadReport load_weights(const std::string& file, const std::vector<nn::NamedTensor>& tensors,
                        const LoadOptions& options = {});
/// The same into a module's parameters and buffers.
LoadReport load_weights(const std::string& file, const nn::Module& module, const LoadOptions& options = {});

}  // namespace palimpsest::storage
