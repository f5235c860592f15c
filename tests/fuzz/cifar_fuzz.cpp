// Any bytes as a file of CIFAR, of 10 classes or of 100 by the first byte: read, or refused with a DataError.

#include <palimpsest/datasets/cifar.hpp>

#include <filesystem>

#include <palimpsest/core/error.hpp>
#include "tests/fuzz/input.hpp"

using namespace palimpsest;

namespace {

/// A folder whose data files are links to one file in memory.
class Folder {
 public:
  Folder()
      : path_(std::filesystem::temp_directory_path() / ("palimpsest_fuzz_" + std::to_string(getpid()))), file_("") {
    std::filesystem::create_directories(path_);
    for (const char* name : {"test_batch.bin", "test.bin"}) std::filesystem::create_symlink(file_.path(), path_ / name);
  }
  ~Folder() { std::filesystem::remove_all(path_); }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;

  const std::filesystem::path& with(std::string_view bytes) const {
    file_.assign(bytes);
    return path_;
  }

 private:
  std::filesystem::path path_;
  fuzz::MemoryFile file_;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const Folder folder;
  if (size == 0) return 0;
  const std::filesystem::path& place = folder.with(fuzz::text_of(data, size).substr(1));
  try {
    const bool hundred = data[0] % 2 == 1;
    const datasets::ImageSet set = hundred ? datasets::read_cifar100(place, datasets::Split::Test)
                                           : datasets::read_cifar10(place, datasets::Split::Test);
    fuzz::require(set.labels.size() == 10'000 && set.pixels.size() == 10'000 * 3072);
    for (const auto label : set.labels) fuzz::require(label < (hundred ? 100 : 10));
  } catch (const DataError&) {
  }
  return 0;
}
