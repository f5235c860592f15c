#include <palimpsest/train/images.hpp>

#include <palimpsest/ops/pool.hpp>

namespace palimpsest::train {
namespace {

class ImageBatches : public Batches {
 public:
  ImageBatches(std::shared_ptr<const datasets::ImageSource> images, const datasets::LoaderOptions& loading,
               Device device)
      : images_(std::move(images)), feed_(*images_, loading, device) {}

  void start_epoch(std::int64_t epoch) override { feed_.start_epoch(epoch); }
  void start_epoch_at(std::int64_t epoch, std::int64_t first_batch) override { feed_.start_epoch(epoch, first_batch); }

  std::optional<Batch> next() override {
    const std::optional<datasets::FedBatch> fed = feed_.next();
    if (!fed) return std::nullopt;
    Tensor images = Tensor::empty(fed->shape, Dtype::Float32, feed_.device(), Tag::Data);
    Tensor labels = Tensor::empty({fed->size}, Dtype::Int32, feed_.device(), Tag::Data);
    feed_.write(images.mutable_view().as<float>(), labels.mutable_view().as<std::int32_t>());
    return Batch{{std::move(images), std::move(labels)}, fed->size};
  }

 private:
  std::shared_ptr<const datasets::ImageSource> images_;
  datasets::Feed feed_;
};

}  // namespace

Data image_data(std::string name, std::int64_t images, const datasets::FeedForm& form) {
  return {.name = std::move(name), .samples = images, .reserve = [form](std::int64_t batch_size, Device meta) {
            return datasets::feed_memory(meta, batch_size, form);
          }};
}

Data image_data(std::string name, std::shared_ptr<const datasets::ImageSource> images,
                datasets::LoaderOptions loading) {
  Data data = image_data(std::move(name), images->count(), datasets::form_of(images->form(), loading));
  data.open = [images = std::move(images), loading = std::move(loading)](std::int64_t batch_size, Device device) {
    datasets::LoaderOptions sized = loading;
    sized.batch_size = batch_size;
    return std::make_unique<ImageBatches>(images, sized, device);
  };
  return data;
}

Data image_data(std::string name, std::shared_ptr<const datasets::ImageSet> images, datasets::LoaderOptions loading) {
  return image_data(std::move(name), std::make_shared<datasets::StoredImages>(std::move(images)), std::move(loading));
}

Tensor crop_scores(nn::Classifier& model, const Tensor& images, std::int64_t crops) {
  if (crops == 1) return model(images);
  const NoGrad no_grad;
  const Shape& all = images.shape();
  const Tensor scores = model(images.detach({all[0] * crops, all[1], all[2] / crops, all[3]}));
  return ops::global_avg_pool(scores.detach({all[0], scores.shape()[1], crops, 1}));
}

std::function<std::vector<TensorSpec>(std::int64_t)> image_batch(std::int64_t channels, std::int64_t height,
                                                                 std::int64_t width) {
  return [=](std::int64_t samples) {
    return std::vector<TensorSpec>{{{samples, channels, height, width}, Dtype::Float32}, {{samples}, Dtype::Int32}};
  };
}

}  // namespace palimpsest::train
