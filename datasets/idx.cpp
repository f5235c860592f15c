#include <palimpsest/datasets/idx.hpp>

#include <algorithm>
#include <iomanip>
#include <ostream>
#include <string>

#include <palimpsest/core/error.hpp>
#include <palimpsest/datasets/input_file.hpp>

namespace palimpsest::datasets {
namespace {

struct Hex {
  std::uint32_t value;
  friend std::ostream& operator<<(std::ostream& out, Hex hex) {
    return out << "0x" << std::hex << std::setw(8) << std::setfill('0') << hex.value << std::dec;
  }
};

void expect_magic(InputFile& file, std::uint32_t expected, std::string_view kind) {
  const std::uint32_t found = file.read_big_endian("magic number");
  if (found != expected) {
    file.fail(0, concat_text("expected the magic number ", Hex{expected}, " of idx ", kind, ", found ", Hex{found}));
  }
}

std::int64_t read_size(InputFile& file, std::uint64_t offset, std::string_view what, std::uint32_t largest) {
  const std::uint32_t size = file.read_big_endian(what);
  if (size < 1 || size > largest) {
    file.fail(offset, concat_text("expected a ", what, " from 1 to ", largest, ", found ", size));
  }
  return size;
}

void read_images(const std::filesystem::path& path, ImageSet& set) {
  InputFile file(path);
  expect_magic(file, 0x00000803, "images");
  set.channels = 1;
  set.count = read_size(file, 4, "number of images", 0x7FFFFFFF);
  set.height = read_size(file, 8, "height", 0x4000);  // the product stays below 2^59
  set.width = read_size(file, 12, "width", 0x4000);
  const auto bytes = static_cast<std::uint64_t>(set.count * set.image_size());
  set.pixels = file.read_rest(bytes, concat_text(set.count, " images of ", set.height, "x", set.width));
}

void read_labels(const std::filesystem::path& path, const std::filesystem::path& images_path, ImageSet& set) {
  InputFile file(path);
  expect_magic(file, 0x00000801, "labels");
  const std::uint32_t count = file.read_big_endian("number of labels");
  if (count != set.count) {
    file.fail(4,
              concat_text("expected ", set.count, " labels, one for each image of ", images_path, ", found ", count));
  }
  const std::vector<std::uint8_t> labels = file.read_rest(count, concat_text(count, " labels"));
  const auto bad = std::find_if(labels.begin(), labels.end(), [&](std::uint8_t label) { return label >= set.classes; });
  if (bad != labels.end()) {
    file.fail(8 + static_cast<std::uint64_t>(bad - labels.begin()),
              concat_text("expected a label below ", set.classes, ", found ", int{*bad}));
  }
  set.labels.assign(labels.begin(), labels.end());
}

std::filesystem::path find_fashion_mnist(const std::filesystem::path& folder, const std::string& name) {
  for (const char* const suffix : {"", ".gz"}) {
    std::filesystem::path path = folder / (name + suffix);
    if (!is_missing(path)) return path;
  }
  throw DataError(concat_text("Fashion-MNIST: there is no ", name, " or ", name, ".gz in ", folder,
                              ": install the Debian package dataset-fashion-mnist, or give the folder that holds the "
                              "idx files (--data-dir)"));
}

}  // namespace

ImageSet read_idx(const std::filesystem::path& images_file, const std::filesystem::path& labels_file,
                  std::int64_t classes) {
  if (classes < 1 || classes > 256) throw ValueError(concat_text("idx labels have 1 to 256 classes, got ", classes));
  ImageSet set;
  set.classes = classes;
  read_images(images_file, set);
  read_labels(labels_file, images_file, set);
  return set;
}

ImageSet read_fashion_mnist(const std::filesystem::path& folder, Split split) {
  const std::filesystem::path place = folder.empty() ? std::filesystem::path(fashion_mnist_folder) : folder;
  const std::string prefix = split == Split::Train ? "train" : "t10k";
  const std::filesystem::path images_file = find_fashion_mnist(place, prefix + "-images-idx3-ubyte");
  const std::filesystem::path labels_file = find_fashion_mnist(place, prefix + "-labels-idx1-ubyte");
  ImageSet set = read_idx(images_file, labels_file, 10);
  const std::int64_t count = split == Split::Train ? 60'000 : 10'000;
  if (set.count != count || set.height != 28 || set.width != 28) {
    throw DataError(concat_text(images_file, ": at byte 4: expected the ", count,
                                " images of 28x28 of Fashion-MNIST, found ", set.count, " of ", set.height, "x",
                                set.width));
  }
  return set;
}

}  // namespace palimpsest::datasets
