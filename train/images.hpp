#pragma once

#include <memory>

#include <palimpsest/datasets/feed.hpp>
#include <palimpsest/nn/model.hpp>
#include <palimpsest/train/task.hpp>

namespace palimpsest::train {

/// Batches of a source of images, as datasets::Feed serves them: images (N, C, H, W) float32 and labels (N) int32.
/// `loading.batch_size` is left to the run.
Data image_data(std::string name, std::shared_ptr<const datasets::ImageSource> images, datasets::LoaderOptions loading);
/// The same of the images of a set.
Data image_data(std::string name, std::shared_ptr<const datasets::ImageSet> images, datasets::LoaderOptions loading);
/// The same of images that have not been read, of which only their form is known: for forecasts. It cannot be opened.
Data image_data(std::string name, std::int64_t images, const datasets::FeedForm& form);

/// Scores of the classes for images (N, C, crops * H, W), each several crops one below the other: the means of the
/// crops' own, (N, classes). Without gradients where there are several.
Tensor crop_scores(nn::Classifier& model, const Tensor& images, std::int64_t crops);

/// Task::batch for images of this form.
std::function<std::vector<TensorSpec>(std::int64_t)> image_batch(std::int64_t channels, std::int64_t height,
                                                                 std::int64_t width);

}  // namespace palimpsest::train
