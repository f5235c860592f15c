#include <palimpsest/datasets/picture_transform.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <utility>

#include <palimpsest/core/error.hpp>

namespace palimpsest::datasets {
namespace {

using Colour = std::array<float, 3>;

/// ITU-R BT.601.
constexpr Colour grey_weights = {0.299F, 0.587F, 0.114F};

/// Principal components of ImageNet's colours, on the 0-255 scale: rows of red, green and blue, and the components'
/// standard deviations (Krizhevsky et al. 2012; the values that Facebook's training of ResNets made common).
constexpr std::array<Colour, 3> components = {
    {{-0.5675F, 0.7192F, 0.4009F}, {-0.5808F, -0.0045F, -0.8140F}, {-0.5836F, -0.6948F, 0.4203F}}};
constexpr Colour deviations = {0.2175F * 255, 0.0188F * 255, 0.0045F * 255};

double between(Random& random, double low, double high) { return low + (high - low) * random.uniform(); }

float grey_of(const float* pixel) {
  return grey_weights[0] * pixel[0] + grey_weights[1] * pixel[1] + grey_weights[2] * pixel[2];
}

/// Changes of a picture's colours, without rounding in between.
class Colours {
 public:
  explicit Colours(const Picture& picture) : values_(picture.pixels.begin(), picture.pixels.end()) {}

  void brighten(float factor) {
    for (float& value : values_) value *= factor;
  }

  void contrast(float factor) {
    double sum = 0;
    for (std::size_t i = 0; i < values_.size(); i += 3) sum += static_cast<double>(grey_of(&values_[i]));
    const auto mean = static_cast<float>(sum / static_cast<double>(values_.size() / 3));
    for (float& value : values_) value = factor * value + (1 - factor) * mean;
  }

  void saturate(float factor) {
    for (std::size_t i = 0; i < values_.size(); i += 3) {
      const float grey = grey_of(&values_[i]);
      for (std::size_t c = 0; c < 3; ++c) values_[i + c] = factor * values_[i + c] + (1 - factor) * grey;
    }
  }

  void add(const Colour& light) {
    for (std::size_t i = 0; i < values_.size(); ++i) values_[i] += light[i % 3];
  }

  void write_to(Picture& picture) const {
    std::transform(values_.begin(), values_.end(), picture.pixels.begin(),
                   [](float value) { return static_cast<std::uint8_t>(std::clamp(value + 0.5F, 0.0F, 255.0F)); });
  }

 private:
  std::vector<float> values_;
};

void jitter(Colours& colours, double amount, Random& random) {
  std::array<int, 3> order = {0, 1, 2};
  for (std::size_t left = order.size(); left > 1; --left) std::swap(order[left - 1], order[random.below(left)]);
  for (const int change : order) {
    const auto factor = static_cast<float>(between(random, 1 - amount, 1 + amount));
    if (change == 0) colours.brighten(factor);
    if (change == 1) colours.contrast(factor);
    if (change == 2) colours.saturate(factor);
  }
}

void light(Colours& colours, double deviation, Random& random) {
  Colour added = {};
  for (std::size_t component = 0; component < 3; ++component) {
    const auto weight = static_cast<float>(random.normal() * deviation) * deviations[component];
    for (std::size_t c = 0; c < 3; ++c) added[c] += components[c][component] * weight;
  }
  colours.add(added);
}

/// A square of (H, W, 3) from (top, left) on to (3, size, size), whose planes are `plane` bytes apart.
void write_planes(const Picture& picture, std::int64_t top, std::int64_t left, std::int64_t size, bool mirror,
                  std::uint8_t* pixels, std::int64_t plane) {
  for (std::int64_t c = 0; c < 3; ++c) {
    std::uint8_t* to = pixels + c * plane;
    for (std::int64_t y = 0; y < size; ++y) {
      const std::uint8_t* const row = picture.pixels.data() + ((top + y) * picture.width + left) * 3 + c;
      for (std::int64_t x = 0; x < size; ++x) *to++ = row[(mirror ? size - 1 - x : x) * 3];
    }
  }
}

/// The middle and the corners of a picture, and their mirror images.
void write_ten_crops(const Picture& image, std::int64_t size, std::uint8_t* pixels) {
  const std::int64_t bottom = image.height - size;
  const std::int64_t right = image.width - size;
  const std::pair<std::int64_t, std::int64_t> places[] = {
      {centred(image.height, size), centred(image.width, size)}, {0, 0}, {0, right}, {bottom, 0}, {bottom, right}};
  for (const bool mirror : {false, true}) {
    for (const auto& [top, left] : places) {
      write_planes(image, top, left, size, mirror, pixels, 10 * size * size);
      pixels += size * size;
    }
  }
}

void check(const PictureTransform& how) {
  if (how.size < 1) throw ValueError(concat_text("images of ", how.size, " pixels a side"));
  if (how.crops != 1 && (how.crops != 10 || how.augment)) {
    throw ValueError(concat_text(how.crops, " crops of ", how.augment ? "an augmented" : "a", " picture, expected 1",
                                 how.augment ? "" : " or 10"));
  }
}

Picture training_image(const PictureTransform& how, const Picture& picture, Random& random) {
  Picture image = resize(picture, random_box(picture.height, picture.width, how, random), how.size, how.size);
  if (how.jitter == 0 && how.lighting == 0) return image;
  Colours colours(image);
  if (how.jitter != 0) jitter(colours, how.jitter, random);
  if (how.lighting != 0) light(colours, how.lighting, random);
  colours.write_to(image);
  return image;
}

}  // namespace

Box random_box(std::int64_t height, std::int64_t width, const PictureTransform& how, Random& random) {
  const auto area = static_cast<double>(height * width);
  for (int attempt = 0; attempt < 10; ++attempt) {
    const double target = area * between(random, how.smallest_area, 1);
    const double ratio = std::exp(between(random, -std::log(how.largest_ratio), std::log(how.largest_ratio)));
    const auto w = static_cast<std::int64_t>(std::lround(std::sqrt(target * ratio)));
    const auto h = static_cast<std::int64_t>(std::lround(std::sqrt(target / ratio)));
    if (w < 1 || h < 1 || w > width || h > height) continue;
    const auto top = static_cast<std::int64_t>(random.below(static_cast<std::uint64_t>(height - h + 1)));
    const auto left = static_cast<std::int64_t>(random.below(static_cast<std::uint64_t>(width - w + 1)));
    return {top, left, h, w};
  }
  const auto reach = [&](std::int64_t side) {
    return static_cast<std::int64_t>(std::lround(static_cast<double>(side) * how.largest_ratio));
  };
  const std::int64_t w = std::min(width, reach(height));
  const std::int64_t h = std::min(height, reach(width));
  return {(height - h) / 2, (width - w) / 2, h, w};
}

Picture with_shorter_side(const Picture& picture, std::int64_t side) {
  const std::int64_t shorter = std::min(picture.height, picture.width);
  const std::int64_t longer = std::max(picture.height, picture.width);
  const bool is_tall = picture.height > picture.width;
  const auto box = [&](std::int64_t length) {
    const std::int64_t first = (longer - length) / 2;
    return is_tall ? Box{first, 0, length, shorter} : Box{0, first, shorter, length};
  };
  const std::int64_t shown = std::min(longer, longest_ratio * shorter);
  const std::int64_t length = side * shown / shorter;
  return resize(picture, box(shown), is_tall ? length : side, is_tall ? side : length);
}

std::int64_t centred(std::int64_t side, std::int64_t size) {
  const std::int64_t twice = side - size;
  const std::int64_t down = twice / 2;
  return twice % 2 != 0 && down % 2 != 0 ? down + 1 : down;
}

void apply(const PictureTransform& how, const Picture& picture, Random& random, std::uint8_t* pixels) {
  check(how);
  const std::int64_t plane = how.size * how.size;
  if (how.augment) {
    const Picture image = training_image(how, picture, random);
    return write_planes(image, 0, 0, how.size, random.bits() % 2 != 0, pixels, plane);
  }
  const Picture image = with_shorter_side(picture, how.shorter_side());
  if (how.crops == 10) return write_ten_crops(image, how.size, pixels);
  write_planes(image, centred(image.height, how.size), centred(image.width, how.size), how.size, false, pixels, plane);
}

}  // namespace palimpsest::datasets
