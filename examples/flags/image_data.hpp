#pragma once

#include <cstdint>
#include <string_view>

#include <palimpsest/train/task.hpp>
#include "examples/flags/options.hpp"

namespace palimpsest::flags {

/// Facts about a data set that are known before its files are opened.
struct DataFacts {
  std::string_view name;
  std::int64_t channels;
  std::int64_t classes;
  std::int64_t training_images;
  std::int64_t test_images;
  std::int64_t stored_size;  ///< height and width
};

/// Facts about the data set that the flags name: synthetic images have the size and the classes that they ask for.
/// Throws ValueError for a name that datasets::open does not know.
DataFacts data_facts(const Options& options);

/// True if `data` is the name of a data set; else it is a folder of pictures.
bool is_known_set(const std::string& data);
/// The index of the folder that the flags name, without the test half under --no-eval. Throws DataError as
/// datasets::index_folder().
std::shared_ptr<const PictureFolder> open_folder(const Options& options);

/// Training and evaluation data that the flags describe.
struct ImageData {
  train::Data training;
  train::Data evaluation;  ///< without samples under --no-eval
};

/// Data of which only the form is known: for forecasts. Throws ValueError as data_facts.
ImageData expected_data(const Options& options, const TrainingDefaults& defaults);
/// Reads the files. Throws DataError, ValueError as datasets::open.
ImageData load_data(const Options& options, const TrainingDefaults& defaults);

}  // namespace palimpsest::flags
