// Batches on a device: the same ones, to the bit, as the loader makes on the CPU.

#include <palimpsest/datasets/feed.hpp>

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <functional>
#include <string>
#include <type_traits>
#include <vector>

#include <palimpsest/autograd/tensor.hpp>
#include <palimpsest/core/error.hpp>
#include <palimpsest/datasets/catalogue.hpp>
#include <palimpsest/datasets/synthetic.hpp>

namespace palimpsest::datasets {
namespace {

static_assert(!std::is_constructible_v<Feed, ImageSet, LoaderOptions, Device>, "a temporary set would be gone");

/// The batches of an epoch: values in the order of memory.
struct Served {
  std::vector<std::int64_t> indices;
  std::vector<std::int64_t> sizes;
  std::vector<std::int32_t> labels;
  std::vector<float> images;

  bool operator==(const Served&) const = default;

  void add(const FedBatch& batch, const Tensor& own_images, const Tensor& own_labels) {
    indices.insert(indices.end(), batch.indices.begin(), batch.indices.end());
    sizes.push_back(batch.size);
    const std::vector<std::int32_t> labels_now = own_labels.to_vector<std::int32_t>();
    const std::vector<float> images_now = own_images.to_vector<float>();
    labels.insert(labels.end(), labels_now.begin(), labels_now.end());
    images.insert(images.end(), images_now.begin(), images_now.end());
  }
};

struct Given {
  FedBatch batch;
  Tensor images;
  Tensor labels;
};

std::optional<Given> take(Feed& feed, Device device) {
  const std::optional<FedBatch> batch = feed.next();
  if (!batch) return std::nullopt;
  Given given{*batch, Tensor::empty(batch->shape, Dtype::Float32, device, Tag::Data),
              Tensor::empty({batch->size}, Dtype::Int32, device, Tag::Data)};
  feed.write(static_cast<float*>(given.images.mutable_view().data),
             static_cast<std::int32_t*>(given.labels.mutable_view().data));
  return given;
}

Served serve(Feed& feed, Device device, std::int64_t epoch, std::int64_t first_batch = 0) {
  feed.start_epoch(epoch, first_batch);
  Served served;
  while (const std::optional<Given> given = take(feed, device)) {
    EXPECT_EQ(given->batch.index, first_batch + static_cast<std::int64_t>(served.sizes.size()));
    served.add(given->batch, given->images, given->labels);
  }
  EXPECT_FALSE(feed.next());
  return served;
}

/// The same from a loader, without a feed.
Served expected(const ImageSet& images, const LoaderOptions& spec, std::int64_t epoch) {
  Loader loader(images, spec);
  loader.start_epoch(epoch);
  Served served;
  while (const std::optional<Batch> batch = loader.next()) {
    served.add({batch->index, batch->size, batch->shape, batch->indices},
               Tensor::from_layout(batch->shape, batch->images), Tensor::from_layout({batch->size}, batch->labels));
  }
  return served;
}

ImageSet small_set(std::int64_t channels = 3) {
  return synthetic({.count = 53, .channels = channels, .height = 5, .width = 7, .classes = 4});
}

LoaderOptions small_spec() {
  LoaderOptions spec;
  spec.batch_size = 10;
  spec.seed = 7;
  spec.pad_to = 8;
  spec.augmentation = {.flip = true, .pad = 2};
  return spec;
}

class FeedTest : public testing::TestWithParam<Device> {
 protected:
  void SetUp() override {
    if (GetParam() == Device::Cuda && cuda_device_count() == 0) GTEST_SKIP() << cuda_unavailable_reason();
  }
  std::size_t data_bytes() const {
    return allocator(GetParam()).stats().live_by_tag[static_cast<std::size_t>(Tag::Data)];
  }
};

TEST_P(FeedTest, MakesTheBitsThatTheLoaderMakes) {
  const std::vector<std::function<void(LoaderOptions&)>> augmentations = {
      [](LoaderOptions& spec) { spec.augmentation = {}; },
      [](LoaderOptions& spec) { spec.augmentation = {.flip = true}; },
      [](LoaderOptions& spec) { spec.augmentation = {.pad = 2}; },
      [](LoaderOptions& spec) { spec.augmentation = {.flip = true, .pad = 4}; },
      [](LoaderOptions& spec) { spec.augmentation = {.flip = true, .pad = 40}; },  // mostly nothing of the image
  };
  for (const std::int64_t channels : {1, 3}) {
    const ImageSet images = small_set(channels);
    Normalisation both = measure_channels(images);
    both.mean_image = measure_mean_image(images).mean_image;
    for (const Normalisation& normalisation :
         {Normalisation{}, measure_channels(images), measure_mean_image(images), both}) {
      for (const std::int64_t pad_to : {0, 7, 8, 13}) {
        for (std::size_t i = 0; i < augmentations.size(); ++i) {
          LoaderOptions spec = small_spec();
          spec.normalisation = normalisation;
          spec.pad_to = pad_to;
          augmentations[i](spec);
          Feed feed(images, spec, GetParam());
          EXPECT_TRUE(serve(feed, GetParam(), 3) == expected(images, spec, 3))
              << channels << " channels, padded to " << pad_to << ", augmentation " << i;
        }
      }
    }
  }
}

TEST_P(FeedTest, ServesTheLoadersOrderForAnyWorkersAndBatchSize) {
  const ImageSet images = small_set();
  for (const std::int64_t batch_size : {1, 10, 26, 53, 100}) {
    for (const int workers : {0, 1, 3}) {
      LoaderOptions spec = small_spec();
      spec.batch_size = batch_size;
      spec.workers = workers;
      Feed feed(images, spec, GetParam());
      EXPECT_EQ(feed.batches(), (52 + std::min<std::int64_t>(batch_size, 53)) / std::min<std::int64_t>(batch_size, 53));
      for (const std::int64_t epoch : {0, 1, 2}) {
        EXPECT_TRUE(serve(feed, GetParam(), epoch) == expected(images, spec, epoch))
            << "batches of " << batch_size << ", " << workers << " workers, epoch " << epoch;
      }
    }
  }
}

TEST_P(FeedTest, TakesUpAnEpochAnywhereAndLeavesOneAnywhere) {
  const ImageSet images = small_set();
  const Served whole = expected(images, small_spec(), 4);
  for (int taken = 0; taken <= 7; ++taken) {
    Feed feed(images, small_spec(), GetParam());
    for (int epoch = 0; epoch < 3; ++epoch) {
      feed.start_epoch(epoch);
      for (int i = 0; i < taken; ++i) feed.next();
    }
    EXPECT_TRUE(serve(feed, GetParam(), 4) == whole) << taken;
    const Served tail = serve(feed, GetParam(), 4, 2);
    EXPECT_TRUE(std::equal(tail.images.begin(), tail.images.end(), whole.images.begin() + 20 * 3 * 8 * 8)) << taken;
    feed.start_epoch(0);
    for (int i = 0; i < taken; ++i) feed.next();
  }
  const Feed never_started(images, small_spec(), GetParam());
}

TEST_P(FeedTest, WhatWasHandedOutStaysAsItIs) {
  const ImageSet images = small_set();
  Feed feed(images, small_spec(), GetParam());
  feed.start_epoch(0);
  std::vector<Given> all;
  while (std::optional<Given> given = take(feed, GetParam())) all.push_back(std::move(*given));
  Served served;
  for (const Given& given : all) served.add(given.batch, given.images, given.labels);
  EXPECT_TRUE(served == expected(images, small_spec(), 0));
}

TEST_P(FeedTest, WritesABatchAgain) {
  const ImageSet images = small_set();
  Feed feed(images, small_spec(), GetParam());
  feed.start_epoch(0);
  for (int i = 0; i < 3; ++i) {
    const std::optional<Given> given = take(feed, GetParam());
    const Tensor again = Tensor::empty(given->batch.shape, Dtype::Float32, GetParam(), Tag::Data);
    feed.write(again.mutable_view().as<float>(), given->labels.mutable_view().as<std::int32_t>());
    EXPECT_EQ(again.to_vector<float>(), given->images.to_vector<float>());
  }
}

TEST_P(FeedTest, RefusesWhatMakesNoSense) {
  const ImageSet images = small_set();
  Feed feed(images, small_spec(), GetParam());
  const auto write = [&] { feed.write(nullptr, nullptr); };
  EXPECT_THROW(write(), StateError);
  EXPECT_THROW(feed.next(), StateError);
  EXPECT_THROW(feed.start_epoch(-1), ValueError);
  EXPECT_THROW(feed.start_epoch(0, 7), ValueError);
  feed.start_epoch(0);
  EXPECT_THROW(write(), StateError);
  ASSERT_TRUE(take(feed, GetParam()));
  EXPECT_THROW(feed.start_epoch(-1), ValueError);
  EXPECT_EQ(take(feed, GetParam())->batch.index, 1);  // the refusal has changed nothing
  LoaderOptions spec = small_spec();
  spec.batch_size = 0;
  EXPECT_THROW(Feed(images, spec, GetParam()), ValueError);
}

TEST_P(FeedTest, TakesItsMemoryOnce) {
  const ImageSet images = small_set();
  const std::size_t before = data_bytes();
  {
    Feed feed(images, small_spec(), GetParam());
    const std::size_t held = data_bytes();
    EXPECT_GT(held, before);
    for (int epoch = 0; epoch < 3; ++epoch) {
      feed.start_epoch(epoch);
      while (feed.next()) EXPECT_EQ(data_bytes(), held);
    }
  }
  EXPECT_EQ(data_bytes(), before);
}

INSTANTIATE_TEST_SUITE_P(Devices, FeedTest, testing::Values(Device::Cpu, Device::Cuda),
                         [](const auto& info) { return info.param == Device::Cuda ? "Cuda" : "Cpu"; });

TEST(CudaFeed, MemoryOnTheCardIsKnownBefore) {
  if (cuda_device_count() == 0) GTEST_SKIP() << cuda_unavailable_reason();
  const auto live = [](Device device) { return allocator(device).stats().live; };
  const ImageSet images = small_set();
  for (const Normalisation& normalisation : {Normalisation{}, measure_mean_image(images)}) {
    LoaderOptions spec = small_spec();
    spec.normalisation = normalisation;
    const std::size_t on_cuda = live(Device::Cuda);
    const std::size_t on_meta = live(Device::MetaCuda);
    const Feed feed(images, spec, Device::Cuda);
    const std::vector<Buffer> memory = feed_memory(Device::MetaCuda, 10, form_of(StoredImages(images).form(), spec));
    EXPECT_EQ(live(Device::Cuda) - on_cuda, live(Device::MetaCuda) - on_meta);
    EXPECT_EQ(live(Device::MetaCuda) - on_meta,
              3 * 1024 + (normalisation.mean_image.empty() ? 0 : 420) + 2 * 10 * (4 + 12 + 105));
  }
}

TEST(Feed, SaysThatACustomAugmentationCannotRunOnCuda) {
  const ImageSet images = small_set();
  LoaderOptions spec = small_spec();
  spec.augmentation.custom = [](std::span<float>, Random&) {};
  try {
    Feed(images, spec, Device::Cuda);
    FAIL();
  } catch (const ValueError& error) {
    EXPECT_NE(std::string(error.what()).find("custom augmentation cannot run on cuda"), std::string::npos);
  }
  spec.raw = true;
  EXPECT_THROW(Loader(images, spec), ValueError);
}

TEST(Feed, OnAMetaDeviceWritesNothing) {
  const ImageSet images = small_set();
  Feed feed(images, small_spec(), Device::MetaCpu);
  feed.start_epoch(0);
  std::int64_t seen = 0;
  while (const std::optional<Given> given = take(feed, Device::MetaCpu)) seen += given->batch.size;
  EXPECT_EQ(seen, 53);
}

/// A finished image from a raw batch, as the kernel makes it.
TEST(Loader, RawBatchesHoldWhatTheImagesAreMadeOf) {
  const ImageSet images = small_set();
  for (const int workers : {0, 2}) {
    LoaderOptions spec = small_spec();
    spec.workers = workers;
    spec.raw = true;
    Loader loader(images, spec);
    const RawLayout layout(10, images.image_size());
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(loader.ring().data()) % 4096, 0U);
    loader.start_epoch(1);
    while (const std::optional<Batch> batch = loader.next()) {
      ASSERT_EQ(batch->raw.size(), layout.bytes);
      EXPECT_EQ(batch->images, nullptr);
      EXPECT_GE(batch->raw.data(), loader.ring().data());
      EXPECT_LE(batch->raw.data() + layout.bytes, loader.ring().data() + loader.ring().size());
      const auto* const placements = reinterpret_cast<const Placement*>(batch->raw.data() + layout.placements);
      const auto* const pixels = reinterpret_cast<const std::uint8_t*>(batch->raw.data() + layout.pixels);
      for (std::int64_t i = 0; i < batch->size; ++i) {
        EXPECT_EQ(batch->labels[i], images.labels[batch->indices[i]]);
        const std::uint8_t* const stored = images.image(batch->indices[i]);
        EXPECT_TRUE(std::equal(stored, stored + images.image_size(), pixels + i * images.image_size()));
        EXPECT_LE(std::abs(placements[i].down + 1), 2);  // a crop by up to 2, and (8 - 5) / 2 rows of padding above
        EXPECT_EQ(placements[i].flip & ~1, 0);
      }
    }
  }
}

}  // namespace
}  // namespace palimpsest::datasets
