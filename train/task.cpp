#include <palimpsest/train/task.hpp>

#include <algorithm>

namespace palimpsest::train {
namespace {

using Make = std::function<std::vector<Tensor>(std::int64_t, std::int64_t, std::int64_t, Device)>;

class MadeBatches : public Batches {
 public:
  MadeBatches(std::int64_t samples, std::int64_t batch_size, Device device, Make make)
      : samples_(samples), batch_size_(batch_size), device_(device), make_(std::move(make)) {}

  void start_epoch(std::int64_t epoch) override { start_epoch_at(epoch, 0); }
  void start_epoch_at(std::int64_t epoch, std::int64_t first_batch) override {
    epoch_ = epoch;
    first_ = first_batch * batch_size_;
  }

  std::optional<Batch> next() override {
    const std::int64_t count = std::min(batch_size_, samples_ - first_);
    if (count <= 0) return std::nullopt;
    return Batch{make_(epoch_, std::exchange(first_, first_ + count), count, device_), count};
  }

 private:
  std::int64_t samples_;
  std::int64_t batch_size_;
  Device device_;
  Make make_;
  std::int64_t epoch_ = 0;
  std::int64_t first_ = 0;
};

}  // namespace

Data made_data(std::string name, std::int64_t samples, Make make) {
  return {.name = std::move(name),
          .samples = samples,
          .open = [samples, make = std::move(make)](std::int64_t batch_size, Device device) {
            return std::make_unique<MadeBatches>(samples, batch_size, device, make);
          }};
}

}  // namespace palimpsest::train
