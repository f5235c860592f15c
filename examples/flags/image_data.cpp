#include "examples/flags/image_data.hpp"

#include <algorithm>
#include <array>

#include <palimpsest/core/error.hpp>
#include <palimpsest/datasets/catalogue.hpp>
#include <palimpsest/datasets/synthetic.hpp>
#include <palimpsest/train/images.hpp>

namespace palimpsest::flags {
namespace {

constexpr std::array<DataFacts, 3> known_sets = {{{"fashion-mnist", 1, 10, 60000, 10000, 28},
                                                  {"cifar10", 3, 10, 50000, 10000, 32},
                                                  {"cifar100", 3, 100, 50000, 10000, 32}}};

/// They lie in memory: there are fewer of large ones.
DataFacts synthetic_facts(const Options& options) {
  const std::int64_t images = options.image_size > 64 ? 1024 : 4096;
  return {"synthetic", 3, options.classes, images, images / 4, options.image_size};
}

std::int64_t limited(std::int64_t count, std::int64_t limit) { return limit > 0 ? std::min(count, limit) : count; }

datasets::ImageSet open(const Options& options, datasets::Split split, std::int64_t limit) {
  if (options.data != "synthetic") return datasets::open(options.data, options.data_dir, split);
  const DataFacts facts = synthetic_facts(options);
  const std::int64_t count = split == datasets::Split::Train ? facts.training_images : facts.test_images;
  return datasets::synthetic({.count = limited(count, limit),
                              .height = facts.stored_size,
                              .width = facts.stored_size,
                              .classes = facts.classes},
                             split);
}

std::shared_ptr<datasets::ImageSet> open_limited(const Options& options, datasets::Split split, std::int64_t limit) {
  auto images = std::make_shared<datasets::ImageSet>(open(options, split, limit));
  images->count = limited(images->count, limit);
  images->pixels.resize(static_cast<std::size_t>(images->count * images->image_size()));
  images->labels.resize(static_cast<std::size_t>(images->count));
  return images;
}

train::Data test_data(const Options& options, const datasets::LoaderOptions& loading) {
  return train::image_data(options.data, open_limited(options, datasets::Split::Test, options.test_limit), loading);
}

}  // namespace

DataFacts data_facts(const Options& options) {
  if (options.data == "synthetic") return synthetic_facts(options);
  const auto* const found = std::find_if(known_sets.begin(), known_sets.end(),
                                         [&](const DataFacts& facts) { return facts.name == options.data; });
  if (found == known_sets.end()) throw ValueError(concat_text("unknown data set '", options.data, "'"));
  if (found->stored_size > options.image_size) {
    throw ValueError(concat_text(options.data, " has images of ", found->stored_size, " pixels a side, more than ",
                                 options.image_size));
  }
  return *found;
}

ImageData expected_data(const Options& options, const TrainingDefaults& defaults) {
  const DataFacts facts = data_facts(options);
  const datasets::FeedForm form{.images = {facts.channels, facts.stored_size, facts.stored_size},
                                .mean_image = defaults.subtract_mean_image,
                                .loading = {.pad_to = options.image_size}};
  ImageData data{.training = train::image_data(options.data, limited(facts.training_images, options.train_limit), form),
                 .evaluation = {}};
  if (options.evaluate) {
    data.evaluation = train::image_data(options.data, limited(facts.test_images, options.test_limit), form);
  }
  return data;
}

ImageData load_data(const Options& options, const TrainingDefaults& defaults) {
  // An evaluation alone has no use for the training images unless their mean is taken off each image.
  if (options.evaluate_alone && !defaults.subtract_mean_image) {
    ImageData data = expected_data(options, defaults);
    data.evaluation = test_data(options, {.shuffle = false,
                                          .normalisation = datasets::default_normalisation(options.data),
                                          .pad_to = options.image_size});
    return data;
  }
  auto training = open_limited(options, datasets::Split::Train, options.train_limit);
  datasets::LoaderOptions loading{.shuffle = false,
                                  .normalisation = defaults.subtract_mean_image
                                                       ? datasets::measure_mean_image(*training)
                                                       : datasets::default_normalisation(options.data),
                                  .pad_to = options.image_size};
  ImageData data;
  if (options.evaluate) data.evaluation = test_data(options, loading);
  loading.shuffle = true;
  loading.seed = options.seed;
  if (options.augment) loading.augmentation = {.flip = true, .pad = defaults.crop_padding};
  data.training = train::image_data(options.data, std::move(training), loading);
  return data;
}

}  // namespace palimpsest::flags
