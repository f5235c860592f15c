#include "examples/harness/image_data.hpp"

#include <algorithm>
#include <array>

#include <palimpsest/core/error.hpp>
#include <palimpsest/datasets/catalogue.hpp>

namespace palimpsest::harness {
namespace {

constexpr std::array<DataFacts, 4> known_sets = {{{"fashion-mnist", 1, 10, 60000, 10000, 28},
                                                  {"cifar10", 3, 10, 50000, 10000, 32},
                                                  {"cifar100", 3, 100, 50000, 10000, 32},
                                                  {"synthetic", 3, 10, 4096, 1024, 32}}};

std::int64_t limited(std::int64_t count, std::int64_t limit) { return limit > 0 ? std::min(count, limit) : count; }

void cut(datasets::ImageSet& images, std::int64_t limit) {
  images.count = limited(images.count, limit);
  images.pixels.resize(static_cast<std::size_t>(images.count * images.image_size()));
  images.labels.resize(static_cast<std::size_t>(images.count));
}

}  // namespace

const DataFacts& data_facts(std::string_view name) {
  const auto* const found =
      std::find_if(known_sets.begin(), known_sets.end(), [&](const DataFacts& facts) { return facts.name == name; });
  if (found == known_sets.end()) throw ValueError(concat_text("unknown data set '", name, "'"));
  return *found;
}

std::int64_t test_images(const Options& options) {
  return limited(data_facts(options.data).test_images, options.test_limit);
}

RunLength run_length(const Options& options) {
  const std::int64_t images = limited(data_facts(options.data).training_images, options.train_limit);
  const std::int64_t batch_size = std::min(options.batch_size, images);
  const std::int64_t per_epoch = (images + batch_size - 1) / batch_size;
  const std::int64_t steps = limited(options.epochs * per_epoch, options.max_steps);
  return {batch_size, per_epoch, (steps + per_epoch - 1) / per_epoch, steps};
}

ImageData load_data(const Options& options, const TrainingDefaults& defaults) {
  ImageData data;
  data.training = datasets::open(options.data, options.data_dir, datasets::Split::Train);
  cut(data.training, options.train_limit);
  if (options.evaluate) {
    data.test = datasets::open(options.data, options.data_dir, datasets::Split::Test);
    cut(data.test, options.test_limit);
  }
  data.normalisation = defaults.subtract_mean_image ? datasets::measure_mean_image(data.training)
                                                    : datasets::default_normalisation(options.data);
  return data;
}

datasets::LoaderOptions training_batches(const Options& options, const TrainingDefaults& defaults,
                                         const ImageData& data) {
  datasets::LoaderOptions spec = test_batches(options, data);
  spec.shuffle = true;
  spec.seed = options.seed;
  if (options.augment) spec.augmentation = {.flip = true, .pad = defaults.crop_padding};
  return spec;
}

datasets::LoaderOptions test_batches(const Options& options, const ImageData& data) {
  return {
      .batch_size = options.batch_size, .shuffle = false, .normalisation = data.normalisation, .pad_to = image_size};
}

}  // namespace palimpsest::harness
