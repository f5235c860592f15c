#include <palimpsest/datasets/loader.hpp>

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <map>
#include <optional>
#include <stdexcept>
#include <type_traits>
#include <vector>

#include <palimpsest/core/error.hpp>
#include <palimpsest/datasets/catalogue.hpp>
#include <palimpsest/datasets/synthetic.hpp>

namespace palimpsest::datasets {
namespace {

static_assert(!std::is_constructible_v<Loader, ImageSet, LoaderOptions>, "a temporary set would be gone");
static_assert(std::is_constructible_v<Loader, const ImageSet&, LoaderOptions>);

/// The batches of a loader, one after the other.
struct Served {
  std::vector<std::int64_t> indices;
  std::vector<std::int32_t> labels;
  std::vector<float> images;
  std::vector<std::int64_t> sizes;

  bool operator==(const Served&) const = default;

  void add(const Batch& batch) {
    indices.insert(indices.end(), batch.indices.begin(), batch.indices.end());
    labels.insert(labels.end(), batch.labels, batch.labels + batch.size);
    images.insert(images.end(), batch.images, batch.images + batch.shape.count());
    sizes.push_back(batch.size);
  }
};

Served serve(Loader& loader, std::int64_t epoch, std::int64_t first_batch = 0) {
  loader.start_epoch(epoch, first_batch);
  Served served;
  while (const std::optional<Batch> batch = loader.next()) {
    EXPECT_EQ(batch->index, first_batch + static_cast<std::int64_t>(served.sizes.size()));
    EXPECT_EQ(batch->shape.n(), batch->size);
    EXPECT_EQ(static_cast<std::int64_t>(batch->indices.size()), batch->size);
    served.add(*batch);
  }
  EXPECT_FALSE(loader.next());
  return served;
}

Served serve(const ImageSet& images, const LoaderOptions& spec, std::int64_t epoch) {
  Loader loader(images, spec);
  return serve(loader, epoch);
}

ImageSet small_set() { return synthetic({.count = 103, .channels = 3, .height = 5, .width = 7, .classes = 4}); }

LoaderOptions small_spec(int workers = 0) {
  LoaderOptions spec;
  spec.batch_size = 10;
  spec.seed = 7;
  spec.normalisation = default_normalisation("synthetic");
  spec.pad_to = 8;
  spec.augmentation = {.flip = true, .pad = 2};
  spec.workers = workers;
  return spec;
}

TEST(Loader, ServesEachImageOncePerEpoch) {
  const ImageSet images = small_set();
  const Served served = serve(images, small_spec(), 0);
  std::vector<std::int64_t> sorted = served.indices;
  std::sort(sorted.begin(), sorted.end());
  for (std::int64_t i = 0; i < images.count; ++i) EXPECT_EQ(sorted.at(i), i);
  EXPECT_NE(sorted, served.indices);
  for (std::size_t i = 0; i < sorted.size(); ++i) EXPECT_EQ(served.labels[i], images.labels[served.indices[i]]);
  EXPECT_EQ(served.sizes, (std::vector<std::int64_t>{10, 10, 10, 10, 10, 10, 10, 10, 10, 10, 3}));
  EXPECT_EQ(served.images.size(), 103U * 3 * 8 * 8);
}

TEST(Loader, KeepsTheSetsOrderAndDropsTheLastBatchIfAsked) {
  const ImageSet images = small_set();
  LoaderOptions spec = small_spec(1);
  spec.shuffle = false;
  spec.drop_last = true;
  Loader loader(images, spec);
  EXPECT_EQ(loader.batches(), 10);
  EXPECT_EQ(loader.shape(), (Shape{10, 3, 8, 8}));
  const Served served = serve(loader, 0);
  EXPECT_EQ(served.sizes, std::vector<std::int64_t>(10, 10));
  for (std::int64_t i = 0; i < 100; ++i) EXPECT_EQ(served.indices.at(i), i);
  spec.drop_last = false;
  spec.batch_size = 1000;
  EXPECT_EQ(serve(images, spec, 0).sizes, std::vector<std::int64_t>{103});
}

TEST(Loader, ServesTheSameBitsForAnyWorkersAndBatchSize) {
  const ImageSet images = small_set();
  for (const std::int64_t epoch : {0, 1, 299}) {
    const Served expected = serve(images, small_spec(), epoch);
    for (const auto& [workers, ahead] : {std::pair{1, 1}, {1, 4}, {3, 1}, {3, 2}, {3, 50}}) {
      LoaderOptions spec = small_spec(workers);
      spec.ahead = ahead;
      EXPECT_TRUE(serve(images, spec, epoch) == expected) << workers << " workers, " << ahead << " ahead";
    }
    LoaderOptions spec = small_spec(2);
    spec.batch_size = 17;
    EXPECT_EQ(serve(images, spec, epoch).images, expected.images);
  }
}

TEST(Loader, DiffersByEpochAndSeedOnly) {
  const ImageSet images = small_set();
  Loader loader(images, small_spec(1));
  const Served first = serve(loader, 0);
  const Served second = serve(loader, 1);
  EXPECT_NE(first.indices, second.indices);
  EXPECT_TRUE(serve(loader, 0) == first);
  LoaderOptions spec = small_spec();
  spec.seed = 8;
  EXPECT_NE(serve(images, spec, 0).indices, first.indices);
  spec = small_spec();
  spec.shuffle = false;  // then epochs differ by augmentation
  EXPECT_NE(serve(images, spec, 0).images, serve(images, spec, 1).images);
}

/// The first image as it must come out, normalised, padded to size, flipped, padded and cropped at (top, left).
std::vector<float> placed(const ImageSet& images, const LoaderOptions& spec, bool flip, std::int64_t top,
                          std::int64_t left) {
  const auto& [mean, deviation, mean_image] = spec.normalisation;
  const std::int64_t size = spec.pad_to;
  std::vector<float> result(static_cast<std::size_t>(size * size * images.channels));
  for (std::size_t i = 0; i < result.size(); ++i) {
    const auto k = static_cast<std::int64_t>(i) % images.channels;
    std::int64_t y = static_cast<std::int64_t>(i) / images.channels / size + top - spec.augmentation.pad;
    std::int64_t x = static_cast<std::int64_t>(i) / images.channels % size + left - spec.augmentation.pad;
    if (x < 0 || x >= size) continue;
    y -= (size - images.height) / 2;
    x = (flip ? size - 1 - x : x) - (size - images.width) / 2;
    if (y < 0 || y >= images.height || x < 0 || x >= images.width) continue;
    const std::int64_t p = (k * images.height + y) * images.width + x;
    result[i] = (static_cast<float>(images.pixels[p]) - mean[k]) / deviation[k];
    if (!mean_image.empty()) result[i] -= mean_image[p] / deviation[k];
  }
  return result;
}

/// Serves the first image `count` times and returns how often it came out in each of the ways that it may.
std::map<std::vector<float>, int> count_placements(ImageSet images, std::int64_t count, const LoaderOptions& spec) {
  std::map<std::vector<float>, int> counts;
  for (const bool flip : {false, true}) {
    for (std::int64_t top = 0; top <= 2 * spec.augmentation.pad; ++top) {
      for (std::int64_t left = 0; left <= 2 * spec.augmentation.pad; ++left) {
        counts[placed(images, spec, flip, top, left)] = 0;
      }
    }
  }
  images.pixels.resize(static_cast<std::size_t>(images.image_size()));
  const std::vector<std::uint8_t> first = images.pixels;
  while (--count > 0) images.pixels.insert(images.pixels.end(), first.begin(), first.end());
  images.count = static_cast<std::int64_t>(images.pixels.size() / first.size());
  images.labels.resize(static_cast<std::size_t>(images.count));
  const Served served = serve(images, spec, 0);
  const auto size = served.images.size() / images.count;
  for (auto image = served.images.begin(); image != served.images.end(); image += size) ++counts[{image, image + size}];
  return counts;
}

TEST(Loader, FlipsAndCropsZeroPaddedNormalisedImages) {
  const auto counts = count_placements(small_set(), 2000, small_spec());
  EXPECT_EQ(counts.size(), 50U);  // and no other image
  for (const auto& [image, count] : counts) EXPECT_NEAR(count, 40, 28);
}

TEST(Loader, TakesGreyImagesAndMeanImages) {
  const ImageSet images = synthetic({.count = 60, .channels = 1, .height = 6, .width = 5, .classes = 3});
  LoaderOptions spec = small_spec();
  spec.pad_to = 6;
  spec.augmentation.pad = 1;
  spec.normalisation = {{3.0F}, {50.0F}, measure_mean_image(images).mean_image};
  auto counts = count_placements(images, 500, spec);
  EXPECT_EQ(counts.size(), 18U);
  for (const auto& [image, count] : counts) EXPECT_GT(count, 0);
  spec.augmentation = {};
  counts = count_placements(images, 10, spec);
  EXPECT_EQ(counts.size(), 2U);
  EXPECT_EQ(counts.at(placed(images, spec, false, 0, 0)), 10);
}

TEST(Loader, LeavesPixelsAloneByDefault) {
  const ImageSet images = small_set();
  LoaderOptions spec;
  spec.shuffle = false;
  EXPECT_EQ(serve(images, spec, 0).images[3 * 7 * 4 + 3 * 2 + 1], images.pixels[5 * 7 + 7 * 4 + 2]);  // (1, 4, 2)
}

TEST(Loader, StartsAnEpochAnywhere) {
  const ImageSet images = small_set();
  for (const int workers : {0, 3}) {
    Loader loader(images, small_spec(workers));
    const Served whole = serve(loader, 5);
    const Served tail = serve(loader, 5, 4);
    EXPECT_TRUE(std::equal(tail.indices.begin(), tail.indices.end(), whole.indices.begin() + 40, whole.indices.end()));
    EXPECT_TRUE(
        std::equal(tail.images.begin(), tail.images.end(), whole.images.begin() + 40 * 192, whole.images.end()));
    EXPECT_TRUE(serve(loader, 5, 11).indices.empty());
  }
}

TEST(Loader, CanBeRestartedAndDestroyedAtAnyMoment) {
  const ImageSet images = small_set();
  const Served expected = serve(images, small_spec(), 2);
  for (int taken = 0; taken < 12; ++taken) {
    Loader loader(images, small_spec(3));
    for (int round = 0; round < 5; ++round) {
      loader.start_epoch(round);
      for (int i = 0; i < taken; ++i) loader.next();
    }
    EXPECT_TRUE(serve(loader, 2) == expected);
    loader.start_epoch(3);
    for (int i = 0; i < taken; ++i) loader.next();
  }
  const Loader never_started(images, small_spec(2));
}

TEST(Loader, BringsAWorkersExceptionToItsBatch) {
  ImageSet images = small_set();
  std::fill_n(images.pixels.begin() + 42 * images.image_size(), images.image_size(), std::uint8_t{0});
  for (const int workers : {0, 1, 3}) {
    LoaderOptions spec = small_spec(workers);
    spec.shuffle = false;
    spec.normalisation = {};
    spec.augmentation = {};
    std::atomic<bool> armed = true;
    spec.augmentation.custom = [&](std::span<float> image, Random&) {
      if (armed && *std::max_element(image.begin(), image.end()) == 0.0F) throw std::runtime_error("black image");
    };
    Loader loader(images, spec);
    loader.start_epoch(0);
    for (int batch = 0; batch < 4; ++batch) EXPECT_TRUE(loader.next());
    EXPECT_THROW(loader.next(), std::runtime_error);
    EXPECT_THROW(loader.next(), std::runtime_error);
    armed = false;
    EXPECT_EQ(serve(loader, 0).indices.size(), 103U);
  }
}

TEST(Loader, TakesItsMemoryOnce) {
  const ImageSet images = small_set();
  const auto data_bytes = [] { return allocator(Device::Cpu).stats().live_by_tag[static_cast<int>(Tag::Data)]; };
  const std::size_t before = data_bytes();
  for (const int workers : {0, 2}) {
    Loader loader(images, small_spec(workers));
    EXPECT_EQ(loader.bytes(), (workers == 0 ? 1U : 3U) * 10 * (3 * 8 * 8 + 1) * 4);
    allocator(Device::Cpu).reset_peak();
    for (int epoch = 0; epoch < 3; ++epoch) {
      serve(loader, epoch);
      EXPECT_EQ(data_bytes(), before + loader.bytes());
    }
    EXPECT_EQ(allocator(Device::Cpu).stats().peak, allocator(Device::Cpu).stats().live);
  }
  EXPECT_EQ(data_bytes(), before);
  allocator(Device::Cpu).set_limit(allocator(Device::Cpu).stats().live + 10'000);
  EXPECT_THROW(Loader(images, small_spec(2)), OutOfMemory);  // room for the first batch alone
  allocator(Device::Cpu).set_limit(0);
  EXPECT_EQ(data_bytes(), before);
}

TEST(Loader, RefusesWhatMakesNoSense) {
  const ImageSet images = small_set();
  const auto refused = [&](auto change) {
    LoaderOptions spec = small_spec();
    change(spec);
    EXPECT_THROW(Loader(images, spec), ValueError);
  };
  refused([](LoaderOptions& spec) { spec.batch_size = 0; });
  refused([](LoaderOptions& spec) { spec.workers = -1; });
  refused([](LoaderOptions& spec) { spec.ahead = 0; });
  refused([](LoaderOptions& spec) { spec.pad_to = 6; });
  refused([](LoaderOptions& spec) { spec.augmentation.pad = -1; });
  refused([](LoaderOptions& spec) { spec.normalisation.mean = {1.0F}; });
  refused([](LoaderOptions& spec) { spec.normalisation.deviation = {1.0F, 0.0F, 1.0F}; });
  refused([](LoaderOptions& spec) { spec.normalisation.mean_image = {1.0F}; });
  refused([](LoaderOptions& spec) { spec.batch_size = 104, spec.drop_last = true; });
  Loader loader(images, small_spec());
  EXPECT_THROW(loader.next(), StateError);
  EXPECT_THROW(loader.start_epoch(-1), ValueError);
  EXPECT_THROW(loader.start_epoch(0, -1), ValueError);
  EXPECT_THROW(loader.start_epoch(0, 12), ValueError);
}

TEST(Loader, RefusesABrokenSet) {
  const auto refused = [](auto change) {
    ImageSet images = small_set();
    change(images);
    EXPECT_THROW(Loader(images, small_spec()), ValueError);
  };
  refused([](ImageSet& images) { images = {}; });
  refused([](ImageSet& images) { images.pixels.pop_back(); });
  refused([](ImageSet& images) { images.labels.push_back(0); });
  refused([](ImageSet& images) { images.labels[3] = 4; });
  refused([](ImageSet& images) { images.labels[3] = -1; });
}

TEST(Synthetic, IsTheSameEverywhere) {
  const ImageSet images = synthetic({.count = 20, .seed = 3});
  std::uint64_t hash = 0xCBF29CE484222325;  // FNV-1a
  for (const std::uint8_t pixel : images.pixels) hash = (hash ^ pixel) * 0x100000001B3;
  EXPECT_EQ(hash, 11845167005201545652U);
  EXPECT_NO_THROW(validate(images));
  const ImageSet more = synthetic({.count = 30, .seed = 3});
  EXPECT_TRUE(std::equal(images.pixels.begin(), images.pixels.end(), more.pixels.begin()));
  EXPECT_NE(synthetic({.count = 20, .seed = 4}).pixels, images.pixels);
  EXPECT_NE(synthetic({.count = 20, .seed = 3}, Split::Test).pixels, images.pixels);
  EXPECT_THROW(synthetic({.count = 0}), ValueError);
  EXPECT_THROW(synthetic({.width = -1}), ValueError);
}

TEST(Synthetic, CanBeLearned) {
  const ImageSet train = synthetic({.count = 1000});
  const ImageSet test = synthetic({.count = 500}, Split::Test);
  const std::int64_t size = train.image_size();
  std::vector<float> sums(static_cast<std::size_t>(10 * size));  // of each class; the nearest mean classifies
  for (std::int64_t p = 0; p < 1000 * size; ++p) sums[p % (10 * size)] += train.pixels[p];
  int right = 0;
  for (std::int64_t i = 0; i < test.count; ++i) {
    std::array<float, 10> distances{};
    for (std::int64_t p = 0; p < 10 * size; ++p) {
      distances[p / size] += std::abs(sums[p] / 100.0F - test.image(i)[p % size]);
    }
    right += std::min_element(distances.begin(), distances.end()) - distances.begin() == test.labels[i];
  }
  EXPECT_GT(right, 400);
}

TEST(Normalisation, IsMeasured) {
  const ImageSet images = {2, 2, 1, 2, 3, {1, 3, 10, 10, 3, 5, 10, 10}, {0, 2}};
  const Normalisation channels = measure_channels(images);
  EXPECT_EQ(channels.mean, (std::vector<float>{3.0F, 10.0F}));
  EXPECT_EQ(channels.deviation, (std::vector<float>{std::sqrt(2.0F), 1.0F}));
  EXPECT_EQ(measure_mean_image(images).mean_image, (std::vector<float>{2.0F, 4.0F, 10.0F, 10.0F}));
  EXPECT_THROW(measure_channels({}), ValueError);
  EXPECT_THROW(measure_mean_image({}), ValueError);
}

TEST(Catalogue, KnowsItsNames) {
  EXPECT_EQ(names().size(), 4U);
  for (const std::string_view name : names()) EXPECT_FALSE(default_normalisation(name).mean.empty());
  EXPECT_EQ(open("synthetic", "", Split::Train).count, 4096);
  EXPECT_EQ(open("synthetic", "", Split::Test).count, 1024);
  EXPECT_THROW(default_normalisation("mnist"), ValueError);
  try {
    open("mnist", "", Split::Train);
    FAIL();
  } catch (const ValueError& error) {
    EXPECT_STREQ(error.what(), "unknown data set 'mnist', expected one of fashion-mnist, cifar10, cifar100, synthetic");
  }
}

}  // namespace
}  // namespace palimpsest::datasets
