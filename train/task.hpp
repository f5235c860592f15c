#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <palimpsest/autograd/op.hpp>
#include <palimpsest/autograd/tensor.hpp>
#include <palimpsest/core/allocator.hpp>
#include <palimpsest/core/error.hpp>
#include <palimpsest/nn/gradients.hpp>
#include <palimpsest/nn/init.hpp>
#include <palimpsest/nn/module.hpp>
#include <palimpsest/nn/optimiser.hpp>
#include <palimpsest/nn/schedule.hpp>

namespace palimpsest::train {

/// A batch on the device that trains: the tensors that Task::batch describes.
struct Batch {
  std::vector<Tensor> tensors;
  std::int64_t samples = 0;
};

/// Serves the batches of an epoch. The last one may be smaller than the others.
class Batches {
 public:
  virtual ~Batches() = default;
  /// Begins epoch `epoch`, from 0; at any time.
  virtual void start_epoch(std::int64_t epoch) = 0;
  /// Begins it at one of its batches: passes over those before, unless it is overridden by something faster.
  virtual void start_epoch_at(std::int64_t epoch, std::int64_t first_batch) {
    start_epoch(epoch);
    while (first_batch-- > 0) next();
  }
  /// The next batch, none at the end of the epoch.
  virtual std::optional<Batch> next() = 0;
};

/// Samples to train on or to evaluate with.
struct Data {
  std::string name = "";
  std::int64_t samples = 0;  ///< in an epoch; 0: no data
  /// Serves the samples in batches of `batch_size` tensors on `device`. Called when training begins, never by a
  /// forecast.
  std::function<std::unique_ptr<Batches>(std::int64_t batch_size, Device device)> open = nullptr;
  /// The memory that `open` takes on the device which `meta` stands for, beside the batches that it hands out. Null:
  /// none.
  std::function<std::vector<Buffer>(std::int64_t batch_size, Device meta)> reserve = nullptr;
  /// The samples that could not be read so far, a text of each; null: there are none. In training others were taken
  /// for them; in an evaluation their label is datasets::no_label, and no score counts them.
  std::function<std::vector<std::string>()> left_out = nullptr;
  /// The file of a sample, by its place in the order that is not shuffled, for a table of predictions; null: they are
  /// in no files of their own.
  std::function<std::string(std::int64_t sample)> file_of = nullptr;
};

/// Data that a program makes itself: `make` returns the samples first, first + 1, ..., first + count - 1 of an epoch as
/// tensors on the device, under Tag::Data.
Data made_data(
    std::string name, std::int64_t samples,
    std::function<std::vector<Tensor>(std::int64_t epoch, std::int64_t first, std::int64_t count, Device)> make);

/// A sum over samples, or over parts of them, and their number: what an evaluation adds up.
struct Score {
  double sum = 0;
  std::int64_t count = 0;

  double mean() const { return count > 0 ? sum / static_cast<double>(count) : 0; }
};

/// A value that says what is trained: how the model is made, what a batch looks like, the loss, the optimiser, the
/// data. A training step on a device and its rehearsal on meta are the same code over it (training.hpp, rehearsal.hpp).
struct Task {
  std::string name = "";  ///< the model's
  std::function<std::unique_ptr<nn::Module>(nn::Init init)> make_model = nullptr;
  /// The tensors of a batch of so many samples, e.g. images (N, C, H, W) float32 and labels (N) int32.
  std::function<std::vector<TensorSpec>(std::int64_t samples)> batch = nullptr;
  /// The loss of a batch, a scalar; a mean over the samples where Options::accumulate makes a step of several batches.
  /// See with_model().
  std::function<Tensor(nn::Module& model, std::span<const Tensor> batch)> loss = nullptr;
  /// Gets the parameters that are trained.
  std::function<std::unique_ptr<nn::Optimiser>(std::vector<nn::NamedTensor> parameters)> make_optimiser = nullptr;
  /// Patterns of parameters that are not trained, and whether normalisations that have no others use their running
  /// statistics and leave them alone: see nn::Module::freeze().
  std::vector<std::string> frozen = {};
  bool freeze_statistics = false;
  /// The treatment of gradients before the optimiser's step: clipping, and the check that they are numbers.
  nn::GradientOptions gradients = {};
  /// The learning rate over a run of so many steps; null: the optimiser's own throughout.
  std::function<nn::Schedule(std::int64_t steps)> schedule = nullptr;
  Data training = {};
  Data evaluation = {};  ///< without samples nothing is evaluated
  /// The score of a batch in evaluation mode, without gradients. Its mean over the evaluation data is the metric. A
  /// rehearsal calls it, as it calls the loss, with tensors on a meta device, which have no numbers: what it reads with
  /// item() or to_vector() it must leave alone there (is_meta(batch[0].device())). ops::count_correct() knows.
  std::function<Score(nn::Module& model, std::span<const Tensor> batch)> score = nullptr;
  /// For a classifier, instead of `score`: the scores of the classes, (N, classes), for the samples of a batch whose
  /// second tensor has their labels, (N) int32; datasets::no_label counts for nothing. The metric is the share of the
  /// highest ones that are right, and an evaluation of its own (reports::evaluate) has more.
  std::function<Tensor(nn::Module& model, std::span<const Tensor> batch)> class_scores = nullptr;
  std::string metric = "accuracy";
  bool metric_is_share = true;  ///< printed in per cent
  bool smaller_is_better = false;
  std::string unit = "samples";  ///< the name of samples in messages and reports
  /// Texts for files of weights, beside "model", which is the name.
  std::map<std::string, std::string> metadata = {};
};

/// A function over a model's own class as Task::loss and Task::score take it: with_model<UNet>([](UNet& model,
/// std::span<const Tensor> batch) { ... }). It throws ValueError if the task's make_model makes another.
template <class Model, class Function>
auto with_model(Function function) {
  return [function = std::move(function)](nn::Module& model, std::span<const Tensor> batch) {
    auto* const own = dynamic_cast<Model*>(&model);
    if (own == nullptr) throw ValueError("the task's make_model makes another model than its loss or score takes");
    return function(*own, batch);
  };
}

}  // namespace palimpsest::train
