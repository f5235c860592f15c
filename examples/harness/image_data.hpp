#pragma once

#include <cstdint>
#include <string_view>

#include <palimpsest/datasets/image_set.hpp>
#include <palimpsest/datasets/loader.hpp>
#include "examples/harness/options.hpp"

namespace palimpsest::harness {

/// Height and width of what the models see; smaller images are padded with zeros.
inline constexpr std::int64_t image_size = 32;

/// What is known of a data set before its files are opened.
struct DataFacts {
  std::string_view name;
  std::int64_t channels;
  std::int64_t classes;
  std::int64_t training_images;
  std::int64_t test_images;
  std::int64_t stored_size;  ///< height and width
};

/// Throws ValueError for a name that datasets::open does not know.
const DataFacts& data_facts(std::string_view name);

/// How long a run is.
struct RunLength {
  std::int64_t batch_size;  ///< of a whole batch: at most the number of images
  std::int64_t steps_per_epoch;
  std::int64_t epochs;  ///< begun ones
  std::int64_t steps;
};

/// Images of the test set that are used, at most. Throws ValueError as data_facts.
std::int64_t test_images(const Options& options);

/// Throws ValueError as data_facts.
RunLength run_length(const Options& options);

/// A data set, cut to the limits that the flags set.
struct ImageData {
  datasets::ImageSet training;
  datasets::ImageSet test;  ///< empty without --eval
  datasets::Normalisation normalisation;
};

/// Reads the files. Throws DataError, ValueError as datasets::open.
ImageData load_data(const Options& options, const TrainingDefaults& defaults);

/// How training and test batches are made.
datasets::LoaderOptions training_batches(const Options& options, const TrainingDefaults& defaults,
                                         const ImageData& data);
datasets::LoaderOptions test_batches(const Options& options, const ImageData& data);

}  // namespace palimpsest::harness
