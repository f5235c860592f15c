// Steps over several batches (Options::accumulate): the gradient of the mean over all samples, in the memory of one
// batch.

#include <gtest/gtest.h>

#include <csignal>
#include <limits>
#include <memory>

#include <palimpsest/datasets/synthetic.hpp>
#include <palimpsest/ops/add.hpp>
#include <palimpsest/ops/mse_loss.hpp>
#include <palimpsest/train/rehearsal.hpp>
#include <palimpsest/train/trainer.hpp>
#include "tests/support/temporary_folder.hpp"
#include "tests/train/row_task.hpp"
#include "tests/train/small_tasks.hpp"

namespace palimpsest::train {
namespace {

/// The rows' numbers depend on their places alone, not on how many are asked for at once.
std::vector<Tensor> rows(std::int64_t epoch, std::int64_t first, std::int64_t count, Device device) {
  std::vector<float> values;
  for (std::int64_t row = first; row < first + count; ++row) {
    Random random(static_cast<std::uint64_t>(epoch), static_cast<std::uint64_t>(row));
    for (std::int64_t i = 0; i < test::width; ++i) values.push_back(static_cast<float>(random.normal()));
  }
  const std::vector<float> targets(static_cast<std::size_t>(count), 1.0F);
  return {Tensor::from_vector({count, test::width}, values, device, Tag::Data),
          Tensor::from_vector({count, 1}, targets, device, Tag::Data)};
}

/// A net without normalisation, whose steps are the same however their samples are divided.
Task row_task(std::int64_t samples, const nn::GradientOptions& gradients = {}) {
  Task task = test::row_task();
  task.loss = with_model<test::Net>(
      [](test::Net& net, std::span<const Tensor> batch) { return ops::mse_loss(net(batch[0]), batch[1]); });
  task.make_optimiser = [](auto parameters) {
    return std::make_unique<nn::Sgd>(std::move(parameters), nn::SgdOptions{.weight_decay = 0.01});
  };
  task.schedule = [](std::int64_t) { return nn::Schedule::constant(0.05); };
  task.training = made_data("rows", samples, rows);
  task.gradients = gradients;
  return task;
}

/// A DenseNet with dropout on 22 augmented images.
Task image_task() {
  const auto images = std::make_shared<datasets::ImageSet>(datasets::synthetic({.count = 22, .seed = 3}));
  Task task = test::image_task([](nn::Init init) {
    nn::DenseNetOptions options = nn::DenseNetOptions::cifar(10, 4);
    options.dropout = 0.2;
    return std::make_unique<nn::DenseNet>(options, std::move(init));
  });
  task.training = image_data("synthetic", images, {.seed = 5, .augmentation = {.flip = true, .pad = 4}});
  task.evaluation = image_data("synthetic", images, {.shuffle = false});
  return task;
}

Options run_of(std::int64_t accumulate, const std::string& memory = "store-all") {
  return {.memory = memory, .batch_size = 8, .accumulate = accumulate, .epochs = 2, .quiet = true};
}

std::unique_ptr<Trainer> run(const Task& task, const Options& options) {
  auto trainer = std::make_unique<Trainer>(task, options, choose_memory(task, options));
  trainer->run();
  return trainer;
}

TEST(Accumulate, GivesTheMeanOverAllSamples) {
  for (const std::int64_t samples : {16, 20, 21, 5}) {
    for (const nn::GradientOptions& gradients : {nn::GradientOptions{}, nn::GradientOptions{.clip_norm = 0.1}}) {
      const auto whole = run(row_task(samples, gradients), run_of(1));
      for (const std::int64_t accumulate : {2, 4, 8}) {
        const auto parts = run(row_task(samples, gradients), run_of(accumulate));
        ASSERT_EQ(parts->record().steps.size(), whole->record().steps.size());
        for (std::size_t i = 0; i < whole->record().steps.size(); ++i) {
          EXPECT_EQ(parts->record().steps[i].samples, whole->record().steps[i].samples);
          EXPECT_NEAR(parts->record().steps[i].loss, whole->record().steps[i].loss, 1e-5);
        }
        const auto expected = whole->model().parameters();
        const auto found = parts->model().parameters();
        for (std::size_t p = 0; p < expected.size(); ++p) {
          const auto a = expected[p].tensor.to_vector<float>();
          const auto b = found[p].tensor.to_vector<float>();
          for (std::size_t i = 0; i < a.size(); ++i) ASSERT_NEAR(a[i], b[i], 1e-5) << samples << ' ' << accumulate;
        }
      }
    }
  }
}

/// With dropout, augmentation, and normalisation by the statistics of each batch.
TEST(Accumulate, IsTheLoopByHand) {
  Task task = image_task();
  const auto trainer = run(task, run_of(4));
  const nn::Init init(0);
  nn::DenseNetOptions spec = nn::DenseNetOptions::cifar(10, 4);
  spec.dropout = 0.2;
  nn::DenseNet net(spec, init);
  nn::Sgd sgd(net.parameters(), {});
  const std::unique_ptr<Batches> batches = task.training.open(2, Device::Cpu);
  for (const std::int64_t epoch : {0, 1}) {
    batches->start_epoch(epoch);
    for (const std::int64_t samples : {8, 8, 6}) {
      sgd.zero_grad();
      for (std::int64_t part = 0; part < samples / 2; ++part) {
        const Batch batch = *batches->next();
        const Tensor loss = ops::cross_entropy(net(batch.tensors[0]), batch.tensors[1]);
        ops::scale(loss, 2 / static_cast<double>(samples)).backward();
      }
      sgd.step();
    }
  }
  EXPECT_EQ(trainer->model().state_digest(), net.state_digest());
}

TEST(Accumulate, TakesTheMemoryThatWasForeseenAndTheSameBitsUnderEveryPolicy) {
  const Task task = image_task();
  std::string digest;
  for (const char* const memory :
       {"store-all", "shared", "checkpoint", "checkpoint+shared", "offload", "budget=1600KiB"}) {
    const Options options = run_of(4, memory);
    const MemoryChoice choice = choose_memory(task, options);
    allocator(Device::Cpu).release_cached();
    const Forecast forecast = rehearse(task, options, choice);
    Trainer trainer(task, options, choice);
    trainer.run();
    EXPECT_EQ(trainer.peak().total, forecast.peak.total) << memory;
    EXPECT_EQ(trainer.peak().by_tag, forecast.peak.by_tag) << memory;
    EXPECT_EQ(std::max(trainer.peak().reserved, trainer.evaluation_peak().reserved), forecast.reserved) << memory;
    EXPECT_EQ(trainer.evaluation_peak().total, forecast.evaluation.total) << memory;
    if (digest.empty()) digest = trainer.model().state_digest();
    EXPECT_EQ(trainer.model().state_digest(), digest) << memory;
  }
}

/// A step of 8 in batches of 2 takes what a step of 2 does, and beside that the gradients that are there while a
/// forward runs, the running statistics at its start, and the loss before it is scaled.
TEST(Accumulate, TakesTheMemoryOfOneBatch) {
  const Task task = image_task();
  const auto peak = [&](std::int64_t batch, std::int64_t accumulate) {
    Options options = run_of(accumulate);
    options.batch_size = batch;
    return rehearse(task, options).peak.total;
  };
  std::size_t more = sizeof(float);
  {
    const nn::DenseNet net(nn::DenseNetOptions::cifar(10, 4), nn::Init(0, Device::MetaCpu));
    for (const auto& [name, buffer] : net.buffers()) more += buffer.value().bytes();
    more += sizeof(float) * static_cast<std::size_t>(net.parameter_count());
  }
  EXPECT_EQ(peak(8, 4), peak(2, 1) + more);
  EXPECT_EQ(peak(64, 32), peak(8, 4));
}

TEST(Accumulate, ResumesToTheBitAfterEveryStep) {
  const Task task = image_task();
  const std::string undisturbed = run(task, run_of(4))->model().state_digest();
  for (std::int64_t last = 1; last <= 6; ++last) {
    const testing::TemporaryFolder folder;
    Options options = run_of(4, "checkpoint");
    options.checkpoints.folder = folder / "run";
    {
      Trainer before(task, options, choose_memory(task, options));
      before.watch(last - 1, [](const auto&) { std::raise(SIGTERM); });
      before.run();
      ASSERT_EQ(before.record().steps.size(), static_cast<std::size_t>(last));
    }
    options = run_of(4, "shared");
    options.resume = folder / "run";
    EXPECT_EQ(run(task, options)->model().state_digest(), undisturbed) << last;
    for (const std::int64_t other : {1, 2}) {
      options.accumulate = other;
      EXPECT_THROW(run(task, options), ResumeError);
    }
  }
}

/// Changes of the batches before, which were final, are taken back, too.
TEST(Accumulate, AFailureInALaterBatchLeavesEverythingAsItWas) {
  const auto generator_of = [](const Training& training) { return training.generator()->offset; };
  Training training(image_task(), nn::Init(1));
  const auto good = [](std::int32_t label) {
    return std::vector<Tensor>{Tensor::zeros({2, 3, 32, 32}), Tensor::from_vector<std::int32_t>({2}, {label, 1})};
  };
  int served = 0;
  training.step(2, [&] { return Part{good(++served), 0.5}; });
  const std::string before = training.model().state_digest();
  const std::uint64_t offset = generator_of(training);
  served = 0;
  EXPECT_THROW(training.step(3,
                             [&] {
                               if (++served < 3) return Part{good(served), 1.0 / 3};
                               return Part{good(99), 1.0 / 3};  // no such class
                             }),
               ValueError);
  EXPECT_EQ(served, 3);
  EXPECT_EQ(training.model().state_digest(), before);
  EXPECT_EQ(generator_of(training), offset);
  for (const auto& [name, parameter] : training.model().parameters()) EXPECT_FALSE(parameter.grad()) << name;
  EXPECT_NO_THROW(training.step(2, [&] { return Part{good(3), 0.5}; }));
}

TEST(Accumulate, RefusesWhatIsNoDivision) {
  for (const std::int64_t accumulate : {0, -1, 3, 16}) {
    EXPECT_THROW(run_length(row_task(20), run_of(accumulate)), ValueError) << accumulate;
  }
  Task task = row_task(20);
  task.training = made_data("rows", 20, [](std::int64_t epoch, std::int64_t first, std::int64_t count, Device device) {
    return rows(epoch, first, count, device);
  });
  task.training.samples = 24;
  EXPECT_THROW(run(task, run_of(4)), DataError) << "the third step has two batches of four";
}

}  // namespace
}  // namespace palimpsest::train
