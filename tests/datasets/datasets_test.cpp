#include <gtest/gtest.h>
#include <unistd.h>

#ifdef PALIMPSEST_HAS_ZLIB
#include <zlib.h>
#endif

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include <palimpsest/core/error.hpp>
#include <palimpsest/datasets/catalogue.hpp>
#include <palimpsest/datasets/cifar.hpp>
#include <palimpsest/datasets/idx.hpp>

namespace palimpsest::datasets {
namespace {

using Bytes = std::vector<std::uint8_t>;
using testing::AssertionFailure;
using testing::AssertionResult;
using testing::AssertionSuccess;

class DatasetFiles : public testing::Test {
 protected:
  DatasetFiles() {
    std::string name = (std::filesystem::temp_directory_path() / "palimpsest-XXXXXX").string();
    if (mkdtemp(name.data()) == nullptr) throw std::runtime_error("no temporary folder");
    folder_ = name;
  }
  ~DatasetFiles() override { std::filesystem::remove_all(folder_); }

  std::filesystem::path write(const std::string& name, const Bytes& bytes) const {
    std::ofstream file(folder_ / name, std::ios::binary);
    file.write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
    return folder_ / name;
  }

  /// A file of zeros, but for one byte.
  std::filesystem::path write_sparse(const std::string& name, std::uint64_t size, std::uint64_t at, char byte) const {
    std::filesystem::create_directories((folder_ / name).parent_path());
    std::ofstream(folder_ / name, std::ios::binary).seekp(static_cast<std::streamoff>(at)).put(byte);
    std::filesystem::resize_file(folder_ / name, size);
    return folder_ / name;
  }

  ImageSet read(const Bytes& images, const Bytes& labels) const {
    return read_idx(write("images", images), write("labels", labels), 10);
  }

  std::filesystem::path folder_;
};

/// Success if `call` throws an E whose message has every one of `parts`.
template <class E, class Call>
AssertionResult throws(const Call& call, const std::vector<std::string>& parts) {
  try {
    call();
  } catch (const E& error) {
    const std::string message = error.what();
    for (const std::string& part : parts) {
      if (message.find(part) == std::string::npos) return AssertionFailure() << message << "\nlacks: " << part;
    }
    return AssertionSuccess();
  } catch (const std::exception& error) {
    return AssertionFailure() << "another exception: " << error.what();
  }
  return AssertionFailure() << "nothing thrown, expected " << parts.front();
}

Bytes idx(std::uint8_t rank, const std::vector<std::uint32_t>& sizes, const Bytes& data) {
  Bytes bytes = {0, 0, 8, rank};
  for (const std::uint32_t size : sizes) {
    for (const int shift : {24, 16, 8, 0}) bytes.push_back(static_cast<std::uint8_t>(size >> shift));
  }
  bytes.insert(bytes.end(), data.begin(), data.end());
  return bytes;
}

const Bytes some_pixels = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12};
Bytes some_images() { return idx(3, {2, 3, 2}, some_pixels); }
Bytes some_labels() { return idx(1, {2}, {7, 9}); }

Bytes prefix(const Bytes& bytes, std::size_t size) { return Bytes(bytes.data(), bytes.data() + size); }
Bytes joined(Bytes bytes, const Bytes& more) {
  bytes.insert(bytes.end(), more.begin(), more.end());
  return bytes;
}

TEST_F(DatasetFiles, IdxIsRead) {
  const ImageSet set = read(some_images(), some_labels());
  EXPECT_EQ(set.count, 2);
  EXPECT_EQ(set.channels, 1);
  EXPECT_EQ(set.height, 3);
  EXPECT_EQ(set.width, 2);
  EXPECT_EQ(set.classes, 10);
  EXPECT_EQ(set.pixels, some_pixels);
  EXPECT_EQ(set.labels, (std::vector<std::int32_t>{7, 9}));
  EXPECT_EQ(set.image(1)[0], 7);
  EXPECT_NO_THROW(validate(set));
}

TEST_F(DatasetFiles, IdxCutAnywhereIsRefused) {
  const Bytes images = some_images();
  const Bytes labels = some_labels();
  EXPECT_TRUE(throws<DataError>([&] { read({}, labels); }, {"images", "at byte 0: the file is empty"}));
  EXPECT_TRUE(throws<DataError>([&] { read(images, {}); }, {"labels", "at byte 0: the file is empty"}));
  for (std::size_t size = 1; size < images.size(); ++size) {
    const std::string at = concat_text("at byte ", size, ": the data end, expected ");
    EXPECT_TRUE(throws<DataError>([&] { read(prefix(images, size), labels); }, {"images", at}));
  }
  for (std::size_t size = 1; size < labels.size(); ++size) {
    const std::string at = concat_text("at byte ", size, ": the data end, expected ");
    EXPECT_TRUE(throws<DataError>([&] { read(images, prefix(labels, size)); }, {"labels", at}));
  }
}

TEST_F(DatasetFiles, IdxWithABadHeaderIsRefused) {
  const auto refused = [&](const Bytes& images, const Bytes& labels, const std::vector<std::string>& parts) {
    return throws<DataError>([&] { read(images, labels); }, parts);
  };
  const Bytes images = some_images();
  const Bytes labels = some_labels();
  EXPECT_TRUE(refused(labels, images, {"images\": at byte 0", "0x00000803 of idx images, found 0x00000801"}));
  EXPECT_TRUE(refused(images, images, {"labels\": at byte 0", "0x00000801 of idx labels, found 0x00000803"}));
  EXPECT_TRUE(refused(idx(3, {0, 3, 2}, {}), labels, {"at byte 4", "number of images from 1 to", "found 0"}));
  EXPECT_TRUE(refused(idx(3, {2, 0, 2}, {}), labels, {"at byte 8", "height from 1 to 16384, found 0"}));
  EXPECT_TRUE(refused(idx(3, {2, 3, 99999}, {}), labels, {"at byte 12", "width from 1 to 16384, found 99999"}));
  EXPECT_TRUE(refused(idx(3, {0x7FFFFFFF, 16384, 16384}, some_pixels), labels, {"at byte 28", "found 12"}));
  EXPECT_TRUE(refused(idx(3, {0xFFFFFFFF, 1, 1}, some_pixels), labels, {"at byte 4", "found 4294967295"}));
  EXPECT_TRUE(
      refused(joined(images, {0}), labels,
              {"at byte 28: the data go on, expected 12 bytes from byte 16", "2 images of 3x2", "found at least 13"}));
  EXPECT_TRUE(refused(images, joined(labels, {0}), {"labels", "at byte 10: the data go on"}));
  EXPECT_TRUE(refused(images, idx(1, {3}, {7, 9, 1}), {"at byte 4: expected 2 labels", "images", "found 3"}));
  EXPECT_TRUE(refused(images, idx(1, {2}, {7, 10}), {"at byte 9: expected a label below 10, found 10"}));
}

TEST_F(DatasetFiles, IdxRefusesImpossibleClassCounts) {
  EXPECT_TRUE(throws<ValueError>([&] { read_idx(folder_, folder_, 0); }, {"1 to 256 classes, got 0"}));
  EXPECT_TRUE(throws<ValueError>([&] { read_idx(folder_, folder_, 257); }, {"got 257"}));
}

TEST_F(DatasetFiles, FilesThatCannotBeReadAreRefused) {
  const std::filesystem::path labels = write("labels", some_labels());
  const auto open_images = [&](const std::filesystem::path& path) { return [&, path] { read_idx(path, labels, 10); }; };
  EXPECT_TRUE(throws<DataError>(open_images(folder_ / "none"), {"none", "no such file"}));
  EXPECT_TRUE(throws<DataError>(open_images(folder_), {"is not a regular file"}));
  EXPECT_TRUE(throws<DataError>(open_images(labels / "below"), {"below"}));
  if (geteuid() == 0) return;  // root may read everything
  std::filesystem::permissions(write("secret", some_images()), std::filesystem::perms::none);
  EXPECT_TRUE(throws<DataError>(open_images(folder_ / "secret"), {"secret", "cannot be opened: Permission denied"}));
}

#ifdef PALIMPSEST_HAS_ZLIB

Bytes gzipped(const Bytes& bytes) {
  z_stream stream{};
  deflateInit2(&stream, 9, Z_DEFLATED, 16 + MAX_WBITS, 8, Z_DEFAULT_STRATEGY);
  Bytes packed(deflateBound(&stream, bytes.size()));
  stream.next_in = const_cast<std::uint8_t*>(bytes.data());
  stream.avail_in = static_cast<uInt>(bytes.size());
  stream.next_out = packed.data();
  stream.avail_out = static_cast<uInt>(packed.size());
  deflate(&stream, Z_FINISH);
  packed.resize(stream.total_out);
  deflateEnd(&stream);
  return packed;
}

TEST_F(DatasetFiles, GzipIsToldByContent) {
  EXPECT_EQ(read(gzipped(some_images()), some_labels()).pixels, some_pixels);
  EXPECT_EQ(read(some_images(), gzipped(some_labels())).labels[1], 9);
  const Bytes images = some_images();
  const Bytes two_members = joined(gzipped(prefix(images, 9)), gzipped(Bytes(images.begin() + 9, images.end())));
  EXPECT_EQ(read(two_members, some_labels()).pixels, some_pixels);
}

TEST_F(DatasetFiles, GzipCutAnywhereIsRefused) {
  const Bytes packed = gzipped(some_images());
  for (std::size_t size = 2; size < packed.size(); ++size) {
    const std::string at = concat_text("truncated gzip data: the file ends at compressed byte ", size);
    EXPECT_TRUE(throws<DataError>([&] { read(prefix(packed, size), some_labels()); }, {"images", at}));
  }
}

TEST_F(DatasetFiles, GzipChangedAnywhereIsRefusedOrHarmless) {
  const Bytes packed = gzipped(some_images());
  int refused = 0;
  for (std::size_t at = 2; at < packed.size(); ++at) {
    Bytes changed = packed;
    changed[at] ^= 0x55;
    try {
      EXPECT_EQ(read(changed, some_labels()).pixels, some_pixels) << "byte " << at;  // a time stamp, say
    } catch (const DataError& error) {
      ++refused;
    }
  }
  EXPECT_GE(refused, static_cast<int>(packed.size()) - 10);
  EXPECT_TRUE(throws<DataError>([&] { read(joined(packed, {1, 2, 3}), some_labels()); }, {"corrupt gzip data at"}));
}

TEST_F(DatasetFiles, GzipOfAnotherSizeIsRefusedWithoutUnpackingIt) {
  const Bytes bomb = gzipped(joined(some_images(), Bytes(std::size_t{64} << 20)));
  EXPECT_TRUE(throws<DataError>([&] { read(bomb, some_labels()); }, {"at byte 28: the data go on", "at least 13"}));
  const Bytes promise = gzipped(idx(3, {0x7FFFFFFF, 16384, 16384}, some_pixels));
  EXPECT_TRUE(throws<DataError>([&] { read(promise, some_labels()); }, {"at byte 28: the data end", "found 12"}));
}

#else

TEST_F(DatasetFiles, GzipNeedsZlib) {
  EXPECT_TRUE(throws<DataError>([&] { read({0x1F, 0x8B, 8}, some_labels()); }, {"images", "has no zlib"}));
}

#endif

TEST_F(DatasetFiles, Cifar10IsReadFromTheFolderOrAbove) {
  for (int i = 1; i <= 5; ++i) {  // the first blue pixel of image i
    write_sparse(concat_text("cifar-10-batches-bin/data_batch_", i, ".bin"), 30'730'000, i * 3073 + 1 + 2048, 77);
  }
  write_sparse("cifar-10-batches-bin/test_batch.bin", 30'730'000, 9'999 * 3073, 9);
  const ImageSet train = read_cifar10(folder_, Split::Train);
  EXPECT_EQ(train.count, 50'000);
  EXPECT_EQ(train.classes, 10);
  EXPECT_NO_THROW(validate(train));
  for (int i = 1; i <= 5; ++i) EXPECT_EQ(train.image((i - 1) * 10'000 + i)[2048], 77);
  std::filesystem::remove(folder_ / "cifar-10-batches-bin/data_batch_3.bin");
  EXPECT_TRUE(throws<DataError>([&] { read_cifar10(folder_, Split::Train); }, {"data_batch_3.bin", "no such file"}));
  const ImageSet test = read_cifar10(folder_ / "cifar-10-batches-bin", Split::Test);
  EXPECT_EQ(test.count, 10'000);
  EXPECT_EQ(test.labels.front(), 0);
  EXPECT_EQ(test.labels.back(), 9);
}

TEST_F(DatasetFiles, Cifar100HasFineLabels) {
  write_sparse("train.bin", 153'700'000, 3074 + 1, 99);
  write_sparse("cifar-100-binary/test.bin", 30'740'000, 3074, 99);  // a coarse label is not looked at
  EXPECT_EQ(read_cifar100(folder_ / "cifar-100-binary", Split::Test).labels[1], 0);
  std::filesystem::remove_all(folder_ / "cifar-100-binary");
  const ImageSet train = read_cifar100(folder_, Split::Train);
  EXPECT_EQ(train.count, 50'000);
  EXPECT_EQ(train.labels[1], 99);
  EXPECT_EQ(train.classes, 100);
}

TEST_F(DatasetFiles, BrokenCifarIsRefused) {
  const auto test10 = [&] { read_cifar10(folder_, Split::Test); };
  EXPECT_TRUE(throws<DataError>([&] { read_cifar10("", Split::Test); }, {"CIFAR-10", "--data-dir"}));
  EXPECT_TRUE(throws<DataError>([&] { read_cifar10(folder_ / "none", Split::Test); }, {"none", "no such folder"}));
  EXPECT_TRUE(throws<DataError>(test10, {"test_batch.bin", "no such file", "binary version", "cifar-10-batches-bin"}));
  for (const std::uint64_t size : {std::uint64_t{1}, std::uint64_t{3073}, std::uint64_t{30'729'999}}) {
    write_sparse("test_batch.bin", size, 0, 0);
    EXPECT_TRUE(throws<DataError>(test10, {concat_text("at byte ", size, ": the data end, expected 30730000 bytes")}));
  }
  write_sparse("test_batch.bin", 30'730'001, 0, 0);
  EXPECT_TRUE(throws<DataError>(test10, {"test_batch.bin", "at byte 30730000: the data go on"}));
  write_sparse("test_batch.bin", 30'730'000, 2 * 3073, 10);
  EXPECT_TRUE(throws<DataError>(test10, {"at byte 6146: expected a label below 10, found 10"}));
  write_sparse("test.bin", 30'740'000, 3074 + 1, 100);
  EXPECT_TRUE(
      throws<DataError>([&] { read_cifar100(folder_, Split::Test); }, {"at byte 3075", "below 100, found 100"}));
}

TEST(FashionMnist, IsTheRealThing) {
  if (!std::filesystem::exists(fashion_mnist_folder)) GTEST_SKIP() << "dataset-fashion-mnist is not installed";
#ifndef PALIMPSEST_HAS_ZLIB
  GTEST_SKIP() << "this build has no zlib";
#endif
  const ImageSet train = open("fashion-mnist", "", Split::Train);
  EXPECT_EQ(train.count, 60'000);
  EXPECT_NO_THROW(validate(train));
  EXPECT_EQ(std::vector(train.labels.begin(), train.labels.begin() + 5), (std::vector<std::int32_t>{9, 0, 0, 3, 0}));
  const Normalisation measured = measure_channels(train);
  EXPECT_NEAR(measured.mean[0] / 255, 0.28604, 5e-6);
  EXPECT_NEAR(measured.deviation[0] / 255, 0.35302, 5e-6);
  EXPECT_NEAR(measured.mean[0], default_normalisation("fashion-mnist").mean[0], 2e-3);
  EXPECT_NEAR(measured.deviation[0], default_normalisation("fashion-mnist").deviation[0], 2e-3);
  const ImageSet test = open("fashion-mnist", "", Split::Test);
  EXPECT_EQ(test.count, 10'000);
  for (int c = 0; c < 10; ++c) EXPECT_EQ(std::count(test.labels.begin(), test.labels.end(), c), 1000);
}

TEST_F(DatasetFiles, FashionMnistElsewhereIsExplained) {
  const auto train = [&] { read_fashion_mnist(folder_, Split::Train); };
  EXPECT_TRUE(throws<DataError>(train, {"no train-images-idx3-ubyte", "package dataset-fashion-mnist", "--data-dir"}));
  write("train-images-idx3-ubyte", some_images());
  EXPECT_TRUE(throws<DataError>(train, {"no train-labels-idx1-ubyte"}));
  write("train-labels-idx1-ubyte", some_labels());
  EXPECT_TRUE(throws<DataError>(train, {"at byte 4", "60000 images of 28x28", "found 2 of 3x2"}));
}

}  // namespace
}  // namespace palimpsest::datasets
