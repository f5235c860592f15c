#pragma once

#include <vector>

#include <palimpsest/datasets/image_set.hpp>

namespace palimpsest::datasets {

/// The way from 8-bit pixels to floats: (pixel - mean[c] - mean_image[c, h, w]) / deviation[c], all on the 0-255 scale.
/// An empty vector stands for 0 (the means) or 1 (the deviation).
struct Normalisation {
  std::vector<float> mean = {};        ///< (C)
  std::vector<float> deviation = {};   ///< (C), positive
  std::vector<float> mean_image = {};  ///< (C, H, W)
};

/// The constants of DenseNet's training (Huang et al. 2017).
Normalisation cifar10_normalisation();
Normalisation cifar100_normalisation();
/// Mean 0.28604 and standard deviation 0.35302 of the training pixels, times 255.
Normalisation fashion_mnist_normalisation();

/// The mean and the standard deviation of every channel over all of a set's images; 1 for a channel that never varies.
Normalisation measure_channels(const ImageSet& training);

/// The mean of every pixel over all of a set's images, and no deviation: RevNet's recipe (Gomez et al. 2017).
Normalisation measure_mean_image(const ImageSet& training);

}  // namespace palimpsest::datasets
