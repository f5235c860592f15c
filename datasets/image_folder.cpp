#include <palimpsest/datasets/image_folder.hpp>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include <palimpsest/core/error.hpp>
#include <palimpsest/datasets/printable.hpp>

namespace palimpsest::datasets {

std::filesystem::path FolderIndex::file(std::int64_t index) const {
  const auto i = static_cast<std::size_t>(index);
  const std::uint64_t begin = i == 0 ? 0 : ends[i - 1];
  return folder / names.substr(begin, ends[i] - begin);
}

FolderIndex FolderIndex::subset(const std::vector<std::int64_t>& indices) const {
  FolderIndex some{.folder = folder, .classes = classes, .notes = notes};
  for (const std::int64_t index : indices) {
    const auto i = static_cast<std::size_t>(index);
    const std::uint64_t begin = i == 0 ? 0 : ends[i - 1];
    some.names.append(names, begin, ends[i] - begin);
    some.ends.push_back(some.names.size());
    some.labels.push_back(labels[i]);
  }
  return some;
}

ImageFolder::ImageFolder(FolderIndex index, FolderReading reading)
    : index_(std::move(index)), reading_(std::move(reading)) {
  if (!decodes_pictures()) {
    throw Error("pictures cannot be decoded: this build of the library has been made without stb_image or zlib");
  }
  for (std::int64_t c = 0; c <= classes(); ++c) {
    class_begins_.push_back(std::lower_bound(index_.labels.begin(), index_.labels.end(), c) - index_.labels.begin());
  }
}

Picture ImageFolder::picture(std::int64_t index) const {
  try {
    return read_picture(index_.file(index).string(), reading_.pictures);
  } catch (const DataError& error) {
    throw DataError(concat_text(error.what(), " (class ", class_name(index), ")"));
  }
}

/// Nullopt, and it is remembered why, for one that cannot be read.
std::optional<Picture> ImageFolder::readable(std::int64_t index) const {
  {
    const std::lock_guard lock(mutex_);
    if (broken_.contains(index)) return std::nullopt;
  }
  try {
    return picture(index);
  } catch (const DataError& error) {
    const std::lock_guard lock(mutex_);
    broken_[index] = {printable(index_.file(index).string()), error.what()};
    return std::nullopt;
  }
}

/// The next picture of the same class, and behind the last one the first.
std::int64_t ImageFolder::after(std::int64_t index) const {
  const auto c = static_cast<std::size_t>(class_of(index));
  return index + 1 < class_begins_[c + 1] ? index + 1 : class_begins_[c];
}

std::int32_t ImageFolder::label(std::int64_t index) const {
  if (reading_.broken == Broken::LeftOut) {
    const std::lock_guard lock(mutex_);
    if (broken_.contains(index)) return no_label;
  }
  return class_of(index);
}

/// The picture, or the next of its class that can be read.
Picture ImageFolder::readable_of_class(std::int64_t index) const {
  std::int64_t taken = index;
  do {
    if (std::optional<Picture> found = readable(taken)) return std::move(*found);
    taken = after(taken);
  } while (taken != index);
  throw DataError(concat_text(index_.folder.string(), ": no picture of class ", class_name(index), " can be read"));
}

void ImageFolder::read(std::int64_t index, Random& random, std::uint8_t* pixels) const {
  if (reading_.broken == Broken::Refused) return apply(reading_.transform, picture(index), random, pixels);
  if (reading_.broken == Broken::Replaced) {
    return apply(reading_.transform, readable_of_class(index), random, pixels);
  }
  if (const std::optional<Picture> found = readable(index)) return apply(reading_.transform, *found, random, pixels);
  std::fill_n(pixels, form().size(), std::uint8_t{0});
}

std::vector<BrokenPicture> ImageFolder::broken() const {
  const std::lock_guard lock(mutex_);
  std::vector<BrokenPicture> all;
  for (const auto& [index, picture] : broken_) all.push_back(picture);
  return all;
}

Normalisation imagenet_normalisation() {
  return {.mean = {123.675F, 116.28F, 103.53F}, .deviation = {58.395F, 57.12F, 57.375F}};
}

}  // namespace palimpsest::datasets
