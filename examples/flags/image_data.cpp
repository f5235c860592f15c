#include "examples/flags/image_data.hpp"

#include <algorithm>
#include <array>

#include <palimpsest/core/error.hpp>
#include <palimpsest/datasets/catalogue.hpp>
#include <palimpsest/datasets/image_folder.hpp>
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

/// So many pictures, evenly from all: a folder's come class by class.
datasets::FolderIndex limited(const datasets::FolderIndex& index, std::int64_t limit) {
  if (limit <= 0 || limit >= index.count()) return index;
  std::vector<std::int64_t> chosen;
  for (std::int64_t i = 0; i < limit; ++i) chosen.push_back(i * index.count() / limit);
  return index.subset(chosen);
}

train::Data picture_data(const Options& options, datasets::FolderIndex index, bool training) {
  using datasets::Broken;
  const Broken skipped = training ? Broken::Replaced : Broken::LeftOut;
  const Broken broken = options.skip_broken ? skipped : Broken::Refused;
  const datasets::FolderReading reading{.transform = {.size = options.image_size,
                                                      .augment = training && options.augment,
                                                      .crops = training ? 1 : options.crops},
                                        .broken = broken};
  auto images = std::make_shared<const datasets::ImageFolder>(std::move(index), reading);
  train::Data data = train::image_data(options.data, images,
                                       {.seed = options.seed,
                                        .shuffle = training,
                                        .normalisation = datasets::imagenet_normalisation(),
                                        .workers = training ? 2 : 1});
  data.left_out = [images] {
    std::vector<std::string> reasons;
    for (const datasets::BrokenPicture& broken : images->broken()) reasons.push_back(broken.reason);
    return reasons;
  };
  data.file_of = [images, folder = options.data](std::int64_t sample) {
    return images->index().file(sample).lexically_relative(folder).string();
  };
  return data;
}

ImageData picture_data(const Options& options) {
  ImageData data;
  data.training = picture_data(options, limited(options.folder->training, options.train_limit), true);
  if (options.evaluate)
    data.evaluation = picture_data(options, limited(options.folder->test, options.test_limit), false);
  return data;
}

train::Data test_data(const Options& options, const datasets::LoaderOptions& loading) {
  return train::image_data(options.data, open_limited(options, datasets::Split::Test, options.test_limit), loading);
}

}  // namespace

bool is_known_set(const std::string& data) {
  const auto names = datasets::names();
  return std::find(names.begin(), names.end(), data) != names.end();
}

std::shared_ptr<const PictureFolder> open_folder(const Options& options) {
  const datasets::FolderOptions how{.seed = options.seed};
  PictureFolder folder{datasets::index_folder(options.data, datasets::Split::Train, how), {}};
  if (options.evaluate) folder.test = datasets::index_folder(options.data, datasets::Split::Test, how);
  return std::make_shared<const PictureFolder>(std::move(folder));
}

DataFacts data_facts(const Options& options) {
  if (options.data == "synthetic") return synthetic_facts(options);
  if (options.folder) {
    const auto& [training, test] = *options.folder;
    return {"pictures",        3, static_cast<std::int64_t>(training.classes.size()), training.count(), test.count(),
            options.image_size};
  }
  const auto* const found = std::find_if(known_sets.begin(), known_sets.end(),
                                         [&](const DataFacts& facts) { return facts.name == options.data; });
  if (found == known_sets.end()) throw ValueError(concat_text("unknown data set '", options.data, "'"));
  if (found->stored_size > options.image_size) {
    throw ValueError(concat_text(options.data, " has images of ", found->stored_size,
                                 " pixels a side, more than --image-size ", options.image_size));
  }
  return *found;
}

ImageData expected_data(const Options& options, const TrainingDefaults& defaults) {
  const DataFacts facts = data_facts(options);
  // Pictures are made in the size that the model takes.
  const datasets::FeedForm form{.images = {facts.channels, options.crops * facts.stored_size, facts.stored_size},
                                .mean_image = defaults.subtract_mean_image,
                                .loading = {.pad_to = options.folder ? 0 : options.image_size}};
  ImageData data{.training = train::image_data(options.data, limited(facts.training_images, options.train_limit), form),
                 .evaluation = {}};
  if (options.evaluate) {
    data.evaluation = train::image_data(options.data, limited(facts.test_images, options.test_limit), form);
  }
  return data;
}

ImageData load_data(const Options& options, const TrainingDefaults& defaults) {
  if (options.folder) return picture_data(options);
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
