// Training loops of a task that is no classifier of images: rows of numbers, a linear loss, an optimiser of its own,
// data that the program makes.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <csignal>
#include <limits>

#include <palimpsest/autograd/kept_streams.hpp>
#include <palimpsest/ops/linear.hpp>
#include <palimpsest/train/interrupt.hpp>
#include <palimpsest/train/rehearsal.hpp>
#include <palimpsest/train/trainer.hpp>
#include <palimpsest/train/weights.hpp>
#include "tests/support/temporary_folder.hpp"
#include "tests/train/row_task.hpp"
#include "tests/train/small_tasks.hpp"

namespace palimpsest::train {
namespace {

using test::row_task;
using test::rows;

Options quiet_run() { return {.batch_size = 8, .epochs = 3, .quiet = true}; }

/// Every policy gives the same bits and has the peak that was predicted.
TEST(Trainer, RunsAnyTaskUnderAnyPolicyAsPredicted) {
  const Task task = row_task();
  std::string digest;
  for (const char* const memory : {"store-all", "checkpoint", "hidden=checkpoint", "budget=1MiB"}) {
    Options options = quiet_run();
    options.memory = memory;
    options.verify = Verify::All;
    const MemoryChoice choice = choose_memory(task, options);
    const Forecast forecast = rehearse(task, options, choice);
    Trainer trainer(task, options, choice);
    trainer.run();
    EXPECT_EQ(trainer.record().steps.size(), 9U) << "20 rows in batches of 8";
    EXPECT_EQ(trainer.record().steps[2].samples, 4);
    EXPECT_EQ(trainer.peak().total, forecast.peak.total) << memory;
    EXPECT_EQ(trainer.evaluation_peak().total, forecast.evaluation.total) << memory;
    EXPECT_EQ(trainer.record().evaluations.size(), 3U);
    if (digest.empty()) digest = trainer.model().state_digest();
    EXPECT_EQ(trainer.model().state_digest(), digest) << memory;
  }
}

/// A RevNet whose streams are soon too large for its grid; without evaluations.
Task task_that_leaves_the_range() {
  Task task = test::image_task([](nn::Init init) {
    nn::ResidualOptions spec = nn::RevNet::cifar(38);
    spec.grid = 23;  // holds only |x| < 2
    return std::make_unique<nn::RevNet>(spec, std::move(init));
  });
  task.training = made_data("waves", 12, [](std::int64_t, std::int64_t first, std::int64_t count, Device device) {
    const Shape shape{count, 3, 32, 32};
    std::vector<float> pixels(static_cast<std::size_t>(shape.count()));
    for (std::size_t i = 0; i < pixels.size(); ++i)
      pixels[i] = 3 * std::sin(0.37F * static_cast<float>(i) + static_cast<float>(first));
    return std::vector<Tensor>{Tensor::from_vector<float>(shape, pixels, device, Tag::Data),
                               Tensor::zeros({count}, Dtype::Int32, device, Tag::Data)};
  });
  task.evaluation = {};
  return task;
}

/// The least budget that a plan can hold.
std::size_t least_budget(const Task& task, Options options) {
  options.memory = "budget=1KiB";
  try {
    choose_memory(task, options);
  } catch (const ValueError& error) {
    const std::string text = error.what();
    return std::stoull(text.substr(text.find("the least feasible is ") + 22));
  }
  return 0;
}

TEST(Trainer, StreamsThatLeaveTheRangeCostMemoryUnderABudgetAndNotTheRun) {
  const Task task = task_that_leaves_the_range();
  Options options{.batch_size = 4, .epochs = 1, .quiet = true};
  Trainer stored(task, options, choose_memory(task, options));
  memory::StepTrace trace;
  const auto take = [&](const memory::StepTrace& watched) { trace = watched; };
  const auto forward_runs = [&] {
    return std::count_if(trace.runs.begin(), trace.runs.end(),
                         [](const memory::StepTrace::Run& run) { return run.kind == RunKind::Forward; });
  };
  stored.watch(1, take);
  stored.run();
  const auto runs = forward_runs();

  const std::size_t least = least_budget(task, options);
  options.memory = concat_text("budget=", least);
  ::testing::internal::CaptureStderr();
  Trainer limited(task, options, choose_memory(task, options));
  limited.watch(1, take);
  limited.run();
  const std::string said = ::testing::internal::GetCapturedStderr();
  EXPECT_GT(limited.record().kept_streams().streams, 0U);
  EXPECT_GT(limited.peak().total, least) << "which has no room for them";
  EXPECT_LT(limited.peak().total, stored.peak().total);
  EXPECT_NE(said.find("step 2: streams leave the range of a grid and are kept, for which the budget has no room"),
            std::string::npos)
      << said;
  EXPECT_EQ(forward_runs(), runs) << "of the attempt that stands";
  EXPECT_EQ(trace.backwards.size(), 1U);
  EXPECT_EQ(limited.model().state_digest(), stored.model().state_digest());
  EXPECT_EQ(allocator(Device::Cpu).limit(), 0U);
}

TEST(Trainer, StreamsThatLeaveTheRangeDoNotMoveALimitOfTheProgram) {
  const Task task = task_that_leaves_the_range();
  Options options{.memory = "reversible", .batch_size = 4, .epochs = 1, .quiet = true};
  const MemoryChoice choice = choose_memory(task, options);
  const std::size_t enough = rehearse(task, options, choice).peak.total;
  Allocator& memory = allocator(Device::Cpu);
  const std::size_t limit = memory.stats().live + enough;
  Trainer trainer(task, options, choice);
  memory.set_limit(limit);
  EXPECT_THROW(trainer.run(), KeptStreamsOutOfMemory);
  EXPECT_EQ(memory.limit(), limit);
  memory.set_limit(0);
}

TEST(Trainer, LearnsWithTheTasksOptimiser) {
  const Task task = row_task();
  const Options options = quiet_run();
  Trainer trainer(task, options, choose_memory(task, options));
  std::vector<std::string> digests;
  trainer.run([&] { digests.push_back(trainer.model().state_digest()); });
  ASSERT_EQ(digests.size(), 3U);
  EXPECT_NE(digests[0], digests[1]);
  const auto& evaluations = trainer.record().evaluations;
  EXPECT_LT(evaluations[2].metric, evaluations[0].metric) << "a linear loss falls";
}

#ifdef PALIMPSEST_HAS_STORAGE
using TrainerWithFiles = testing::InTemporaryFolder;

/// Weights come from a file before the first step and go to one after the last, and take no byte of the device.
TEST_F(TrainerWithFiles, BeginsWithWeightsAndEndsWithThem) {
  const Task task = row_task();
  Options options = quiet_run();
  options.save_weights = path("first");
  const MemoryChoice choice = choose_memory(task, options);
  const Forecast forecast = rehearse(task, options, choice);
  Trainer first(task, options, choice);
  EXPECT_EQ(files(), 0);
  first.run();
  EXPECT_EQ(first.peak().total, forecast.peak.total);

  options.seed = 2;
  options.weights = path("first");
  options.save_weights = path("second");
  Trainer second(task, options, choice);
  EXPECT_EQ(second.model().state_digest(), first.model().state_digest());
  second.run();
  EXPECT_EQ(second.peak().total, forecast.peak.total);
  EXPECT_NE(second.model().state_digest(), first.model().state_digest());
  EXPECT_EQ(files(), 2);

  options.weights_except = {"hidden.second.*"};
  options.weights = path("second");
  Trainer third(task, options, choice);
  const auto weight_of = [](Trainer& trainer, std::size_t i) {
    return trainer.model().parameters().at(i).tensor.to_vector<float>();
  };
  EXPECT_EQ(weight_of(third, 0), weight_of(second, 0));
  EXPECT_NE(weight_of(third, 2), weight_of(second, 2));
  EXPECT_EQ(check_weights(task, options)->left.size(), 2U);

  options.weights = "";
  EXPECT_THROW(check_weights(task, options), ValueError);
  EXPECT_THROW(Trainer(task, options, choice), ValueError);
  options.weights_except = {};
  options.save_weights = path("no/where");
  EXPECT_THROW(Trainer(task, options, choice), Error);
}
#endif

TEST(Trainer, LeavesWhatAnotherModelHasRecordedAlone) {
  const Task task = row_task();
  Options options = quiet_run();
  options.memory = "budget=1MiB";
  const MemoryChoice choice = choose_memory(task, options);
  Trainer alone(task, options, choice);
  alone.run();
  const Tensor weight = Tensor::from_vector<float>({1, 2}, {3, 5}).requires_grad();
  const Tensor loss = ops::linear(Tensor::from_vector<float>({1, 2}, {7, 9}), weight, Tensor::zeros({1}));
  Trainer trainer(task, options, choice);
  trainer.watch(3, [&](const memory::StepTrace& step) {
    for (const memory::StepTrace::Op& op : step.ops) EXPECT_NE(op.name, "");
  });
  trainer.run();
  EXPECT_EQ(trainer.model().state_digest(), alone.model().state_digest());
  loss.backward();
  EXPECT_EQ(weight.grad().to_vector<float>(), (std::vector<float>{7, 9}));
}

TEST(Training, AListenerThatThrowsFailsTheStepWhoeverHoldsTheLoss) {
  Training training(test::small_densenet(10), nn::Init(1));
  const std::vector<Tensor> batch = {Tensor::zeros({2, 3, 32, 32}), Tensor::from_vector<std::int32_t>({2}, {0, 1})};
  const std::string before = training.model().state_digest();
  Tensor held;
  const auto throws = [&](const Tensor& loss) {
    held = loss;
    throw std::runtime_error("user code");
  };
  EXPECT_THROW(training.step(batch, throws), std::runtime_error);
  EXPECT_EQ(training.model().state_digest(), before);
}

TEST(Trainer, HandsOverTheWatchedStep) {
  const Task task = row_task();
  const Options options = quiet_run();
  Trainer trainer(task, options, choose_memory(task, options));
  int handed = 0;
  trainer.watch(3, [&](const memory::StepTrace& step) {
    ++handed;
    EXPECT_EQ(trainer.record().steps.size(), 4U) << "the first step of the second epoch";
    EXPECT_FALSE(step.runs.empty());
    EXPECT_EQ(step.allocations.front().tag, Tag::Data) << "with its batch";
  });
  trainer.run();
  EXPECT_EQ(handed, 1);
}

TEST(Trainer, EndsAfterTheStepInWhichASignalCame) {
  Task task = row_task();
  task.training = made_data("rows", 20, [](auto epoch, auto first, auto count, Device device) {
    if (epoch == 1 && first == 8) std::raise(SIGINT);
    return rows(epoch, first, count, device);
  });
  const Options options = quiet_run();
  const InterruptGuard guard;
  Trainer trainer(task, options, choose_memory(task, options));
  int epochs = 0;
  trainer.run([&] { ++epochs; });
  EXPECT_TRUE(trainer.record().interrupted);
  EXPECT_EQ(trainer.record().steps.size(), 5U);
  EXPECT_EQ(epochs, 1);
}

TEST(Trainer, SaysInWhichStepTheLossDiverged) {
  Task task = row_task();
  task.training = made_data("rows", 20, [](auto epoch, auto first, auto count, Device device) {
    std::vector<Tensor> batch = rows(epoch, first, count, device);
    if (first < 8) return batch;
    const std::vector<float> weights(static_cast<std::size_t>(count), std::numeric_limits<float>::infinity());
    batch[1] = Tensor::from_vector({count, 1}, weights, device, Tag::Data);
    return batch;
  });
  const Options options = quiet_run();
  Trainer trainer(task, options, choose_memory(task, options));
  std::string digest;
  try {
    trainer.run();
    FAIL() << "an infinite weight";
  } catch (const DivergedError& error) {
    EXPECT_NE(std::string(error.what()).find("step 2: the loss is "), std::string::npos) << error.what();
    EXPECT_NE(std::string(error.what()).find("learning rate"), std::string::npos) << error.what();
  }
}

TEST(Trainer, KeepsToABudgetWhileItTrainsBesideWhatTheProgramHasInUse) {
  const Task task = row_task();
  Options options = quiet_run();
  options.memory = "budget=1MiB";
  const MemoryChoice choice = choose_memory(task, options);
  const std::size_t predicted = rehearse(task, options, choice).peak.total;
  const Tensor own = Tensor::zeros({std::int64_t{3} << 20}, Dtype::Float32);  // 12 MiB of the program's
  Allocator& memory = allocator(Device::Cpu);
  const std::size_t in_use = memory.stats().live;
  const std::size_t before = memory.limit();
  const auto limit_in_a_run = [&] {
    Trainer trainer(task, options, choice);
    std::size_t limit = 0;
    trainer.run([&] { limit = memory.limit(); });
    EXPECT_EQ(trainer.peak().total, predicted);
    return limit;
  };
  EXPECT_EQ(limit_in_a_run(), in_use + (std::size_t{1} << 20));
  EXPECT_EQ(memory.limit(), before);
  memory.set_limit(in_use + (std::size_t{900} << 10));  // a lower limit of the program's own stays in force
  EXPECT_EQ(limit_in_a_run(), in_use + (std::size_t{900} << 10));
  memory.set_limit(before);
}

TEST(Trainer, HeedsASignalByItself) {
  Task task = row_task();
  task.training = made_data("rows", 20, [](auto epoch, auto first, auto count, Device device) {
    if (first == 8) std::raise(SIGTERM);
    return rows(epoch, first, count, device);
  });
  const Options options = quiet_run();
  Trainer trainer(task, options, choose_memory(task, options));
  trainer.run();
  EXPECT_TRUE(trainer.record().interrupted);
  EXPECT_FALSE(interrupted());
}

TEST(Trainer, DataThatEndEarlyAndScoresOfNothingAreErrors) {
  const auto message_of = [](const Task& task) {
    const Options options = quiet_run();
    Trainer trainer(task, options, choose_memory(task, options));
    try {
      trainer.run();
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  /// Twenty samples by its own account, and half of them when it comes to it.
  class Half : public Batches {
   public:
    explicit Half(std::unique_ptr<Batches> whole) : whole_(std::move(whole)) {}
    void start_epoch(std::int64_t epoch) override { whole_->start_epoch(epoch), left_ = 2; }
    std::optional<Batch> next() override { return left_-- > 0 ? whole_->next() : std::nullopt; }

   private:
    std::unique_ptr<Batches> whole_;
    int left_ = 0;
  };
  const auto halved = [](const Data& data) {
    Data half = data;
    half.open = [open = data.open](auto... how) { return std::make_unique<Half>(open(how...)); };
    return half;
  };
  Task task = row_task();
  task.training = halved(task.training);
  EXPECT_EQ(message_of(task),
            concat_text("the data ", task.training.name, " ended after 16 samples, expected ", task.training.samples));
  task = row_task();
  task.score = [](nn::Module&, std::span<const Tensor>) { return Score{}; };
  task.evaluation = task.training;
  EXPECT_EQ(message_of(task), concat_text("the score of ", task.name, " has counted nothing"));
}

TEST(Trainer, RefusesAMetaDevice) {
  Options options = quiet_run();
  options.device = Device::MetaCpu;
  EXPECT_THROW(Trainer(row_task(), options, {}), DeviceError);
}

TEST(MemoryChoice, SaysTheLeastThatABudgetTakes) {
  Options options = quiet_run();
  options.memory = "budget=1KiB";
  try {
    choose_memory(row_task(), options);
    FAIL() << "parameters alone take more";
  } catch (const ValueError& error) {
    EXPECT_NE(std::string(error.what()).find("least feasible"), std::string::npos) << error.what();
    EXPECT_NE(std::string(error.what()).find("offload_dir"), std::string::npos) << error.what();
  }
}

TEST(Task, SaysWhichPartIsMissingOrOfAnotherKind) {
  const auto refusal = [](const auto& change) -> std::string {
    Task task = row_task();
    change(task);
    try {
      rehearse(task, quiet_run());
    } catch (const ValueError& error) {
      return error.what();
    }
    return "";
  };
  EXPECT_EQ(refusal([](Task& task) { task.loss = nullptr; }), "the task Net has no loss");
  EXPECT_EQ(refusal([](Task& task) { task.make_optimiser = nullptr; }), "the task Net has no make_optimiser");
  EXPECT_EQ(refusal([](Task& task) { task.score = nullptr; }), "the task Net has no score for its evaluation data");
  EXPECT_EQ(refusal([](Task& task) { task.training = {}; }), "Net: there are no samples to train on");
  EXPECT_EQ(refusal([](Task& task) { task.batch = nullptr; }), "the task Net has no batch");
  EXPECT_EQ(refusal([](Task& task) { task.make_model = [](nn::Init) { return nullptr; }; }),
            "the task Net's make_model has made nothing");
  EXPECT_EQ(refusal([](Task& task) { task.make_optimiser = [](auto) { return nullptr; }; }),
            "the task Net's make_optimiser has made nothing");
  const auto another = [](Task& task) { task.make_model = test::small_revnet().make_model; };
  EXPECT_NE(refusal(another).find("makes another model"), std::string::npos);
}

TEST(Options, AreRefusedWhereTheyMakeNoRun) {
  const auto refused = [](const auto& change) {
    Options options = quiet_run();
    change(options);
    try {
      run_length(row_task(), options);
    } catch (const ValueError&) {
      return true;
    }
    return false;
  };
  EXPECT_FALSE(refused([](Options&) {}));
  EXPECT_TRUE(refused([](Options& options) { options.evaluate_every = 0; }));
  EXPECT_TRUE(refused([](Options& options) { options.max_steps = -1; }));
  EXPECT_TRUE(refused([](Options& options) { options.epochs = INT64_MAX; }));
}

TEST(Rehearsal, SaysThatThereAreNoNumbersForAScoreThatReadsSome) {
  Task task = row_task();
  task.score = [](nn::Module& net, std::span<const Tensor> batch) {
    return Score{dynamic_cast<test::Net&>(net)(batch[0]).item(), 1};
  };
  task.evaluation.samples = 1;
  try {
    rehearse(task, quiet_run());
    FAIL() << "a meta tensor has no elements";
  } catch (const DeviceError& error) {
    EXPECT_EQ(
        std::string(error.what()),
        "a rehearsal of Net on meta-cpu, where tensors have no numbers: item: a tensor on meta-cpu has no elements");
  }
}

TEST(Trainer, RefusesEvaluationDataThatAreNotAsTheTaskSays) {
  Task task = row_task();
  task.evaluation = made_data("rows", 4, [](std::int64_t, std::int64_t, std::int64_t count, Device device) {
    return std::vector<Tensor>{Tensor::zeros({count, 3}, Dtype::Float32, device, Tag::Data),
                               Tensor::zeros({count, 1}, Dtype::Float32, device, Tag::Data)};
  });
  Trainer trainer(task, quiet_run(), {.rules = memory::parse("store-all").rules()});
  EXPECT_THROW(trainer.run(), ShapeError);
  EXPECT_GT(trainer.peak().total, 0U);
}

TEST(Training, LeavesEvaluationModeWhenAScoreThrows) {
  Task task = row_task();
  task.score = [](nn::Module&, std::span<const Tensor>) -> Score { throw ValueError("no score"); };
  Training training(task, nn::Init(1, Device::MetaCpu));
  EXPECT_THROW(training.evaluate({}), ValueError);
  EXPECT_TRUE(training.model().training());
}

TEST(Trainer, RefusesDataThatAreNotAsTheTaskSays) {
  Task task = row_task();
  const Options options = quiet_run();
  task.batch = [](std::int64_t samples) -> std::vector<TensorSpec> { return {{{samples, 3}}, {{samples, 1}}}; };
  Trainer trainer(task, options, {.rules = memory::parse("store-all").rules()});
  try {
    trainer.run();
    FAIL() << "rows have 24 numbers";
  } catch (const ShapeError& error) {
    EXPECT_NE(std::string(error.what()).find("(8, 24) float32, (8, 1) float32; expected (8, 3) float32"),
              std::string::npos)
        << error.what();
  }
  Task unopened = row_task();
  unopened.training.open = nullptr;
  Trainer closed(unopened, options, {.rules = memory::parse("store-all").rules()});
  EXPECT_THROW(closed.run(), ValueError);
  EXPECT_TRUE(closed.evaluate().has_value()) << "that needs none of them";
}

}  // namespace
}  // namespace palimpsest::train
