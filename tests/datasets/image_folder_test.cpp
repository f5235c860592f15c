#include <sys/stat.h>

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <set>
#include <string>
#include <vector>

#include <palimpsest/core/error.hpp>
#include <palimpsest/datasets/image_folder.hpp>
#include <palimpsest/datasets/loader.hpp>
#include "tests/support/source_root.hpp"
#include "tests/support/temporary_folder.hpp"

namespace palimpsest::datasets {
namespace {

namespace fs = std::filesystem;

class ImageFolders : public ::palimpsest::testing::InTemporaryFolder {
 protected:
  void add(const std::string& file, const std::string& picture = "dot.png") const {
    fs::create_directories((folder_ / file).parent_path());
    fs::copy_file(test::source_root() + "/tests/datasets/pictures/" + picture, folder_ / file);
  }
  void add_text(const std::string& file) const {
    fs::create_directories((folder_ / file).parent_path());
    std::ofstream(folder_ / file) << "no picture";
  }

  std::vector<std::string> files(Split split, const FolderOptions& options = {}) const {
    const FolderIndex index = index_folder(folder_, split, options);
    std::vector<std::string> names;
    for (std::int64_t i = 0; i < index.count(); ++i) {
      names.push_back(index.file(i).lexically_relative(folder_).string() + " " +
                      std::to_string(index.labels[static_cast<std::size_t>(i)]));
    }
    return names;
  }

  std::string notes(Split split) const {
    std::string all;
    for (const std::string& note : index_folder(folder_, split).notes) all += note + "\n";
    return all;
  }

  std::string refusal(Split split = Split::Train) const {
    try {
      index_folder(folder_, split);
      return "";
    } catch (const DataError& error) {
      return error.what();
    }
  }

  void expect_refused(const std::string& words, Split split = Split::Train) const {
    const std::string why = refusal(split);
    EXPECT_NE(why.find(words), std::string::npos) << "'" << why << "' does not say '" << words << "'";
  }
};

TEST_F(ImageFolders, ClassesAndFilesAreInTheOrderOfTheirBytes) {
  for (const char* const file :
       {"train/b/2.jpg", "train/b/10.PNG", "train/b/deep/er/1.jpeg", "train/Z/x.png", "val/b/y.png"})
    add(file);
  EXPECT_EQ(files(Split::Train), (std::vector<std::string>{"train/Z/x.png 0", "train/b/10.PNG 1", "train/b/2.jpg 1",
                                                           "train/b/deep/er/1.jpeg 1"}));
  EXPECT_EQ(files(Split::Test), std::vector<std::string>{"val/b/y.png 1"}) << "by the numbers of train";
  EXPECT_NE(notes(Split::Test).find("no JPEG or PNG in class Z"), std::string::npos);
  EXPECT_EQ(index_folder(folder_, Split::Test).classes, (std::vector<std::string>{"Z", "b"}));
}

TEST_F(ImageFolders, WhatIsNoPictureIsPassedOverAndSaid) {
  add("train/a/1.png");
  add("train/a/.hidden.png");
  add("train/.ipynb_checkpoints/1.png");
  add_text("train/a/readme.txt");
  add_text("train/loose.txt");
  add("train/loose.png");
  ASSERT_EQ(mkfifo((folder_ / "train/a/pipe.png").c_str(), 0600), 0);
  fs::create_symlink("nowhere", folder_ / "train/lost class");
  fs::create_directory_symlink("..", folder_ / "train/a/back");
  fs::create_symlink("nowhere", folder_ / "train/a/lost.png");
  EXPECT_EQ(files(Split::Train), std::vector<std::string>{"train/a/1.png 0"});
  EXPECT_NE(notes(Split::Train).find("2 names beginning with a dot"), std::string::npos) << notes(Split::Train);
  EXPECT_NE(notes(Split::Train).find("2 files ending in none"), std::string::npos) << notes(Split::Train);
  EXPECT_NE(notes(Split::Train).find("a/lost.png"), std::string::npos) << notes(Split::Train);
  EXPECT_NE(notes(Split::Train).find("a/back"), std::string::npos) << notes(Split::Train);
  EXPECT_NE(notes(Split::Train).find("lost class"), std::string::npos) << notes(Split::Train);
  EXPECT_NE(notes(Split::Train).find("1 picture in no class's folder"), std::string::npos) << notes(Split::Train);
  EXPECT_NE(notes(Split::Train).find("1 device or pipe"), std::string::npos) << notes(Split::Train);
}

TEST_F(ImageFolders, LinksToFilesAndFoldersAreFollowed) {
  add("store/1.png");
  fs::create_directories(folder_ / "train");
  fs::create_directory_symlink(folder_ / "store", folder_ / "train/a");
  fs::create_directories(folder_ / "train/b");
  fs::create_symlink(folder_ / "store/1.png", folder_ / "train/b/2.png");
  EXPECT_EQ(files(Split::Train), (std::vector<std::string>{"train/a/1.png 0", "train/b/2.png 1"}));
}

TEST_F(ImageFolders, AFolderWithoutHalvesIsSplitByTheSeed) {
  for (int i = 0; i < 20; ++i) add("a/" + std::to_string(i) + ".png");
  for (int i = 0; i < 3; ++i) add("b/" + std::to_string(i) + ".png");
  add("c/alone.png");
  const FolderOptions options{.test_share = 0.25, .seed = 3};
  const std::vector<std::string> training = files(Split::Train, options);
  const std::vector<std::string> held_back = files(Split::Test, options);
  EXPECT_EQ(training.size(), 15U + 2U + 1U);
  EXPECT_EQ(held_back.size(), 5U + 1U) << "at least one of each class, but never the last";
  std::set<std::string> all(training.begin(), training.end());
  all.insert(held_back.begin(), held_back.end());
  EXPECT_EQ(all.size(), 24U) << "no picture is in both";
  EXPECT_EQ(files(Split::Test, options), held_back);
  EXPECT_NE(files(Split::Test, {.test_share = 0.25, .seed = 4}), held_back);
  EXPECT_THROW(index_folder(folder_, Split::Test, {.test_share = 0}), ValueError);
}

TEST_F(ImageFolders, WhatCannotBeIsToldAtOnce) {
  expect_refused("has no folders");
  EXPECT_THROW(index_folder(folder_ / "missing", Split::Train), DataError);
  add("train/a/1.png");
  add_text("train/b/1.webp");
  fs::create_directories(folder_ / "train/c");
  expect_refused("no JPEG or PNG in class b, c; other endings: 1 file");
  fs::remove_all(folder_ / "train/b");
  fs::remove_all(folder_ / "train/c");
  expect_refused("neither val nor test", Split::Test);
  add("val/other/1.png");
  expect_refused("has class other", Split::Test);
  add("train/\xE9t\xE9/1.png");
  expect_refused("\\xE9t\\xE9");
}

TEST_F(ImageFolders, HalvesThatAreCalledOtherwiseAreNoClasses) {
  add("Train/a/1.png");
  add("val/a/1.png");
  expect_refused("has Train, val, expected train and val");
  fs::rename(folder_ / "Train", folder_ / "cars");
  EXPECT_EQ(files(Split::Train).size(), 2U);
  fs::remove_all(folder_ / "cars");
  expect_refused("has val, expected train", Split::Test);
  add("bus/1.png");
  add("train/1.png");
  expect_refused("a half of the pictures, not a class");
}

TEST_F(ImageFolders, TheDigestIsOfClassesAndFilesInTheirOrder) {
  add("here/a/1.png");
  add("here/b/2.png");
  const auto digest = [&](const char* name) { return index_folder(folder_ / name, Split::Train).digest(); };
  const std::string before = digest("here");
  fs::rename(folder_ / "here", folder_ / "there");
  EXPECT_EQ(digest("there"), before);
  fs::rename(folder_ / "there/a", folder_ / "there/c");
  EXPECT_NE(digest("there"), before);
  fs::rename(folder_ / "there/c", folder_ / "there/a");
  fs::rename(folder_ / "there/a/1.png", folder_ / "there/a/3.png");
  EXPECT_NE(digest("there"), before);
}

class PicturesOfFolders : public ImageFolders {
 protected:
  void SetUp() override {
    if (!decodes_pictures()) GTEST_SKIP() << "this build decodes no pictures";
  }
  ImageFolder source(Broken broken = Broken::Refused, bool augment = false) const {
    return {index_folder(folder_, Split::Train), {.transform = {.size = 8, .augment = augment}, .broken = broken}};
  }
};

TEST_F(PicturesOfFolders, OneThatCannotBeReadNamesItselfItsClassAndTheReason) {
  add("train/good/1.png", "drawn.png");
  add_text("train/bad/1.png");
  const ImageFolder images = source();
  std::vector<std::uint8_t> pixels(3 * 8 * 8);
  Random random(1);
  try {
    images.read(0, random, pixels.data());
    FAIL() << "it was read";
  } catch (const DataError& error) {
    const std::string why = error.what();
    EXPECT_NE(why.find("train/bad/1.png"), std::string::npos) << why;
    EXPECT_NE(why.find("class bad"), std::string::npos) << why;
    EXPECT_NE(why.find("unknown format"), std::string::npos) << why;
  }
  images.read(1, random, pixels.data());
  const ImageFolder skipping = source(Broken::Replaced);
  EXPECT_THROW(skipping.read(0, random, pixels.data()), DataError) << "the class has no other";
}

TEST_F(PicturesOfFolders, BrokenOnesAreReplacedByTheNextOfTheirClass) {
  add("train/a/1.png", "drawn.png");
  add("train/a/2.png", "420.jpg");
  add_text("train/a/3.png");
  add_text("train/a/4\xFF.png");
  add("train/b/1.png", "grey.png");
  const ImageFolder images = source(Broken::Replaced);
  const auto read = [&](std::int64_t index) {
    std::vector<std::uint8_t> pixels(3 * 8 * 8);
    Random random(1);
    images.read(index, random, pixels.data());
    return pixels;
  };
  EXPECT_EQ(read(2), read(0)) << "behind the last one comes the first";
  EXPECT_NE(read(1), read(0));
  const std::vector<BrokenPicture> broken = images.broken();
  ASSERT_EQ(broken.size(), 2U);
  EXPECT_NE(broken[1].file.find("4\\xFF.png"), std::string::npos) << broken[1].file;
}

TEST_F(PicturesOfFolders, BrokenOnesHaveNoLabelWhereNothingMayReplaceThem) {
  add("train/a/1.png", "drawn.png");
  add_text("train/a/2.png");
  add_text("train/b/1.png");
  const ImageFolder images = source(Broken::LeftOut);
  Loader loader(images, {.batch_size = 3, .shuffle = false, .normalisation = imagenet_normalisation()});
  for (const std::int64_t epoch : {0, 1}) {
    loader.start_epoch(epoch);
    const std::optional<Batch> batch = loader.next();
    ASSERT_TRUE(batch);
    EXPECT_EQ(std::vector<std::int32_t>(batch->labels, batch->labels + 3),
              (std::vector<std::int32_t>{0, no_label, no_label}));
    const float* const last = batch->images + std::ptrdiff_t{2} * 3 * 8 * 8;
    EXPECT_EQ(std::vector<float>(last, last + 3 * 8 * 8), std::vector<float>(last - 3 * 8 * 8, last)) << "zero pixels";
  }
  EXPECT_EQ(images.broken().size(), 2U);
  Loader raw(images, {.batch_size = 3, .shuffle = false, .raw = true});  // as it goes to a card
  raw.start_epoch(0);
  const std::optional<Batch> batch = raw.next();
  ASSERT_TRUE(batch);
  std::array<std::int32_t, 3> labels{};
  std::memcpy(labels.data(), batch->raw.data(), sizeof labels);
  EXPECT_EQ(labels, (std::array<std::int32_t, 3>{0, no_label, no_label}));
}

TEST_F(PicturesOfFolders, AreTheSameForAnyNumberOfWorkersAndAnyBatch) {
  for (int i = 0; i < 7; ++i) {
    add("train/a/" + std::to_string(i) + ".png", i % 2 == 0 ? "drawn.png" : "420.jpg");
    add("train/b/" + std::to_string(i) + ".png", i % 2 == 0 ? "rgba.png" : "progressive.jpg");
  }
  add_text("train/a/broken.png");
  const auto epoch = [&](int workers, std::int64_t batch_size) {
    const ImageFolder images = source(Broken::Replaced, true);
    Loader loader(images,
                  {.batch_size = batch_size, .seed = 5, .normalisation = imagenet_normalisation(), .workers = workers});
    std::vector<float> all;
    loader.start_epoch(2);
    while (const auto batch = loader.next()) {
      all.insert(all.end(), batch->images, batch->images + batch->shape.count());
      all.insert(all.end(), batch->labels, batch->labels + batch->size);
    }
    return all;
  };
  const std::vector<float> one = epoch(0, 4);
  EXPECT_EQ(one.size(), 15U * (3 * 8 * 8 + 1));
  EXPECT_EQ(epoch(3, 4), one);
  EXPECT_EQ(epoch(2, 15).size(), one.size());
  const auto images_of = [](std::vector<float> all, std::size_t batch) {
    std::vector<float> pixels;
    for (std::size_t first = 0; first < all.size();) {
      const std::size_t size = std::min(batch, 15 - pixels.size() / 192);
      pixels.insert(pixels.end(), all.begin() + static_cast<std::ptrdiff_t>(first),
                    all.begin() + static_cast<std::ptrdiff_t>(first + size * 192));
      first += size * 193;
    }
    return pixels;
  };
  EXPECT_EQ(images_of(epoch(2, 15), 15), images_of(one, 4));
}

}  // namespace
}  // namespace palimpsest::datasets
