#include <palimpsest/datasets/image_source.hpp>

#include <algorithm>

namespace palimpsest::datasets {

StoredImages::StoredImages(const ImageSet& images)
    : StoredImages(std::shared_ptr<const ImageSet>(std::shared_ptr<void>(), &images)) {}

StoredImages::StoredImages(std::shared_ptr<const ImageSet> images) : images_(std::move(images)) { validate(*images_); }

void StoredImages::read(std::int64_t index, Random& /*random*/, std::uint8_t* pixels) const {
  std::copy_n(images_->image(index), images_->image_size(), pixels);
}

}  // namespace palimpsest::datasets
