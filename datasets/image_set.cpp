#include <palimpsest/datasets/image_set.hpp>

#include <algorithm>

#include <palimpsest/core/error.hpp>

namespace palimpsest::datasets {
namespace {

void check_sizes(const ImageSet& images) {
  const auto [smallest, rest] =
      std::minmax({images.count, images.channels, images.height, images.width, images.classes});
  if (smallest < 1) {
    throw ValueError(concat_text("an image set needs positive sizes, got ", images.count, " images of ",
                                 images.channels, "x", images.height, "x", images.width, " in ", images.classes,
                                 " classes"));
  }
}

void check_length(std::string_view what, std::size_t found, std::int64_t expected) {
  if (found != static_cast<std::size_t>(expected)) {
    throw ValueError(concat_text("an image set has ", found, " ", what, ", expected ", expected));
  }
}

}  // namespace

void validate(const ImageSet& images) {
  check_sizes(images);
  check_length("pixels", images.pixels.size(), images.count * images.image_size());
  check_length("labels", images.labels.size(), images.count);
  const auto bad = std::find_if(images.labels.begin(), images.labels.end(),
                                [&](std::int32_t label) { return label < 0 || label >= images.classes; });
  if (bad != images.labels.end()) {
    throw ValueError(
        concat_text("label ", *bad, " of image ", bad - images.labels.begin(), " is not in [0, ", images.classes, ")"));
  }
}

}  // namespace palimpsest::datasets
