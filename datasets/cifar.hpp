#pragma once

#include <filesystem>

#include <palimpsest/datasets/image_set.hpp>

namespace palimpsest::datasets {

/// CIFAR-10 (Krizhevsky 2009), binary version: 50,000 or 10,000 images (3, 32, 32) in 10 classes, from data_batch_1.bin
/// to data_batch_5.bin or test_batch.bin. `folder` is cifar-10-batches-bin itself or the folder that holds it. Throws
/// DataError, with file and offset, for a file that is missing, truncated or oversized and for a label above 9.
ImageSet read_cifar10(const std::filesystem::path& folder, Split split);

/// CIFAR-100, binary version, with its 100 fine labels: train.bin or test.bin. `folder` is cifar-100-binary itself or
/// the folder that holds it. Throws DataError as read_cifar10 does.
ImageSet read_cifar100(const std::filesystem::path& folder, Split split);

}  // namespace palimpsest::datasets
