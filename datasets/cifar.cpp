#include <palimpsest/datasets/cifar.hpp>

#include <string>
#include <vector>

#include <palimpsest/core/error.hpp>
#include <palimpsest/datasets/input_file.hpp>

namespace palimpsest::datasets {
namespace {

constexpr std::int64_t pixels_per_image = std::int64_t{3} * 32 * 32;

/// A file is a row of records: `label_bytes` labels, of which the last is the one used, then the red, green and blue
/// planes of an image.
struct Format {
  std::string_view name;
  std::string_view folder;
  std::int64_t label_bytes;
  std::int64_t classes;
  std::int64_t images_per_file;

  std::int64_t record_bytes() const { return label_bytes + pixels_per_image; }
};

std::filesystem::path locate(const Format& format, const std::filesystem::path& folder) {
  if (folder.empty()) {
    throw DataError(concat_text(format.name, " needs the folder that holds ", format.folder, " (--data-dir)"));
  }
  if (is_missing(folder)) throw DataError(concat_text(folder, ": no such folder"));
  const std::filesystem::path inner = folder / format.folder;
  return is_missing(inner) ? folder : inner;
}

void check_present(const Format& format, const std::filesystem::path& file) {
  if (!is_missing(file)) return;
  throw DataError(concat_text(file, ": no such file, expected the binary version of ", format.name, " there (",
                              format.folder, ", from https://www.cs.toronto.edu/~kriz/cifar.html)"));
}

void append_record(const Format& format, const std::uint8_t* record, ImageSet& set) {
  const std::uint8_t* const pixels = record + format.label_bytes;
  set.labels.push_back(pixels[-1]);
  set.pixels.insert(set.pixels.end(), pixels, pixels + pixels_per_image);
}

void append_file(const Format& format, const std::filesystem::path& path, ImageSet& set) {
  InputFile file(path);
  const std::int64_t size = format.record_bytes();
  const std::vector<std::uint8_t> records =
      file.read_rest(static_cast<std::uint64_t>(format.images_per_file * size),
                     concat_text(format.images_per_file, " ", format.name, " records of ", size));
  set.pixels.reserve(static_cast<std::size_t>(set.count * pixels_per_image));  // now that a file is what it should be
  set.labels.reserve(static_cast<std::size_t>(set.count));
  for (std::int64_t i = 0; i < format.images_per_file; ++i) {
    append_record(format, records.data() + i * size, set);
    if (set.labels.back() >= format.classes) {
      file.fail(static_cast<std::uint64_t>(i * size + format.label_bytes - 1),
                concat_text("expected a label below ", format.classes, ", found ", set.labels.back()));
    }
  }
}

ImageSet read(const Format& format, const std::filesystem::path& folder, const std::vector<std::string>& names) {
  const std::filesystem::path place = locate(format, folder);
  for (const std::string& name : names) check_present(format, place / name);
  ImageSet set{static_cast<std::int64_t>(names.size()) * format.images_per_file, 3, 32, 32, format.classes};
  for (const std::string& name : names) append_file(format, place / name, set);
  return set;
}

}  // namespace

ImageSet read_cifar10(const std::filesystem::path& folder, Split split) {
  constexpr Format format = {"CIFAR-10", "cifar-10-batches-bin", 1, 10, 10'000};
  if (split == Split::Test) return read(format, folder, {"test_batch.bin"});
  return read(format, folder,
              {"data_batch_1.bin", "data_batch_2.bin", "data_batch_3.bin", "data_batch_4.bin", "data_batch_5.bin"});
}

ImageSet read_cifar100(const std::filesystem::path& folder, Split split) {
  const bool train = split == Split::Train;
  const Format format = {"CIFAR-100", "cifar-100-binary", 2, 100, train ? 50'000 : 10'000};
  return read(format, folder, {train ? "train.bin" : "test.bin"});
}

}  // namespace palimpsest::datasets
