#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include <palimpsest/datasets/image_set.hpp>
#include <palimpsest/datasets/image_source.hpp>
#include <palimpsest/datasets/normalisation.hpp>
#include <palimpsest/datasets/picture.hpp>
#include <palimpsest/datasets/picture_transform.hpp>

namespace palimpsest::datasets {

/// The pictures below a folder, by class: their names, not their pixels.
struct FolderIndex {
  std::filesystem::path folder = {};      ///< that `names` are relative to
  std::vector<std::string> classes = {};  ///< by their place
  std::vector<std::int32_t> labels = {};  ///< (N)
  std::string names = {};                 ///< of all files, one behind the other
  std::vector<std::uint64_t> ends = {};   ///< (N): where each name ends
  std::vector<std::string> notes = {};    ///< what was left out and why, in lines for people

  std::int64_t count() const { return static_cast<std::int64_t>(labels.size()); }
  std::filesystem::path file(std::int64_t index) const;
  /// A 128-bit digest, in hexadecimal, of the names of classes and files: the same for the same pictures with the same
  /// labels in the same order, wherever the folder is.
  std::string digest() const;
  /// An index of some of these files.
  FolderIndex subset(const std::vector<std::int64_t>& indices) const;
};

struct FolderOptions {
  /// The share of each class that a folder without train/ holds back for the test, chosen by the seed.
  double test_share = 0.1;
  std::uint64_t seed = 0;
};

/// The index of one half of a folder of pictures. With folders train/ and val/ (or test/) in it, those are the halves,
/// numbered by the classes of train/; else its pictures are split by the seed. The classes are the folders in it, in
/// the order of the bytes of their names; a class's pictures are the files below its folder, at any depth, whose names
/// end in .jpg, .jpeg or .png in any case, in the order of their paths. Links are followed, not in circles. Names that
/// begin with a dot are passed over, and so are files that end otherwise; both are noted. Throws DataError, naming the
/// folder: if it is missing or cannot be read, has no class, a class has no picture or a name that is no UTF-8, or val/
/// has a class that train/ has not; if there is train/ and neither val/ nor test/ where the test half is asked for.
FolderIndex index_folder(const std::filesystem::path& folder, Split split, const FolderOptions& options = {});

/// A picture that could not be read.
struct BrokenPicture {
  std::string file;    ///< printable, whatever its name is
  std::string reason;  ///< with file and class
};

/// The treatment of a picture that cannot be read.
enum class Broken : std::uint8_t {
  Refused,   ///< an error
  Replaced,  ///< the next of its class is read instead: for training
  LeftOut,   ///< its pixels are 0 and its label is no_label: for measuring
};

struct FolderReading {
  PictureTransform transform = {};
  PictureOptions pictures = {};
  Broken broken = Broken::Refused;
};

/// The pictures of a folder as a source of images of the transform's form: files are read when they are asked for.
class ImageFolder : public ImageSource {
 public:
  /// Throws Error in a build that decodes no pictures.
  ImageFolder(FolderIndex index, FolderReading reading);

  std::int64_t count() const override { return index_.count(); }
  std::int64_t classes() const override { return static_cast<std::int64_t>(index_.classes.size()); }
  ImageForm form() const override { return reading_.transform.form(); }
  std::int32_t label(std::int64_t index) const override;
  /// Throws DataError with the file, its class and the reason under Broken::Refused; under Broken::Replaced only if no
  /// picture of the class can be read.
  void read(std::int64_t index, Random& random, std::uint8_t* pixels) const override;

  const FolderIndex& index() const { return index_; }
  /// Those that were replaced or left out so far, by their place.
  std::vector<BrokenPicture> broken() const;

 private:
  FolderIndex index_;
  FolderReading reading_;
  std::vector<std::int64_t> class_begins_;  // (classes + 1): the pictures of a class lie side by side
  mutable std::mutex mutex_;                // guards what follows
  mutable std::map<std::int64_t, BrokenPicture> broken_;

  std::int32_t class_of(std::int64_t index) const { return index_.labels[static_cast<std::size_t>(index)]; }
  const std::string& class_name(std::int64_t index) const {
    return index_.classes[static_cast<std::size_t>(class_of(index))];
  }
  Picture picture(std::int64_t index) const;
  Picture readable_of_class(std::int64_t index) const;
  std::optional<Picture> readable(std::int64_t index) const;
  std::int64_t after(std::int64_t index) const;
};

/// The usual normalisation of ImageNet's pictures: means 123.675, 116.28, 103.53 and deviations 58.395, 57.12, 57.375.
Normalisation imagenet_normalisation();

}  // namespace palimpsest::datasets
