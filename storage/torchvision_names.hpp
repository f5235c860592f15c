#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <palimpsest/nn/module.hpp>

namespace palimpsest::storage {

/// The names that torchvision has for the tensors of a DenseNet ("features.denseblock1.denselayer2.conv1.weight" for
/// "dense1.layer2.conv1.weight") or of an ImageNetResNet ("layer1.0.downsample.0.weight"), in this order. None for the
/// tensors of another model.
std::optional<std::vector<std::string>> torchvision_names(std::span<const nn::NamedTensor> tensors);

/// A name as torchvision spells it today: files of 2017 have "denselayer2.norm.1.weight" for
/// "denselayer2.norm1.weight".
std::string modern_spelling(std::string_view name);

/// True for the counter that PyTorch keeps beside running statistics, which nothing here depends on.
bool counts_batches(std::string_view name);

}  // namespace palimpsest::storage
