#pragma once

#include <cstdint>
#include <filesystem>
#include <string_view>

#include <palimpsest/datasets/image_set.hpp>

namespace palimpsest::datasets {

/// Reads a pair of idx files (LeCun's MNIST format, big-endian): 8-bit grey images, magic 0x00000803, count, height,
/// width; their labels, magic 0x00000801, count. Either may be gzipped, whatever its name. Throws ValueError unless
/// 1 <= classes <= 256, and DataError, with file and offset, for files that are missing, malformed, truncated or
/// oversized, for counts that differ and for a label that is not in [0, classes).
ImageSet read_idx(const std::filesystem::path& images_file, const std::filesystem::path& labels_file,
                  std::int64_t classes);

/// The folder of the Debian package dataset-fashion-mnist.
inline constexpr std::string_view fashion_mnist_folder = "/usr/share/datasets/fashion-mnist";

/// Fashion-MNIST (Xiao et al. 2017): 60,000 or 10,000 grey 28x28 images in 10 classes. `folder` holds
/// train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte and t10k-labels-idx1-ubyte, each plain or
/// with .gz; empty means fashion_mnist_folder. Throws DataError as read_idx does, for other sizes than these, and, with
/// how to get the data, where a file is missing.
ImageSet read_fashion_mnist(const std::filesystem::path& folder, Split split);

}  // namespace palimpsest::datasets
