#pragma once

#include <filesystem>
#include <span>
#include <string_view>

#include <palimpsest/datasets/image_set.hpp>
#include <palimpsest/datasets/normalisation.hpp>

namespace palimpsest::datasets {

/// The data sets that open() knows: fashion-mnist, cifar10, cifar100, synthetic.
std::span<const std::string_view> names();

/// One half of a data set by name. `folder` is where its files lie (see the readers); empty means the Debian package's
/// folder for fashion-mnist, and nothing to synthetic (32x32 RGB, 10 classes, 4,096 and 1,024 images). Throws
/// ValueError, with the names there are, for another name, and what the readers throw.
ImageSet open(std::string_view name, const std::filesystem::path& folder, Split split);

/// The normalisation of a data set's published recipes. Throws ValueError as open does.
Normalisation default_normalisation(std::string_view name);

}  // namespace palimpsest::datasets
