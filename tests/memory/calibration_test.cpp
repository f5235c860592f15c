// Rates found from timed runs: of made-up machines, whose rates are known, and of a real step.

#include <palimpsest/memory/planner/calibration.hpp>

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <vector>

#include <palimpsest/autograd/observer.hpp>
#include <palimpsest/core/error.hpp>
#include <palimpsest/core/philox.hpp>
#include <palimpsest/memory/policies.hpp>
#include <palimpsest/nn/models/densenet.hpp>
#include <palimpsest/nn/sgd.hpp>
#include <palimpsest/ops/cross_entropy.hpp>
#include "tests/support/test_device.hpp"

namespace palimpsest {
namespace {

using memory::Calibration;
using memory::Rates;
using memory::TimedRun;

constexpr Rates machine = {2e11, 3e10, 4e-6, 1e9};

/// Runs as a model has them: some bound by arithmetic, some by memory, some by neither.
std::vector<Work> some_work(int count) {
  Random random(7);
  std::vector<Work> all;
  for (int i = 0; i < count; ++i) {
    const double size = std::pow(10.0, 3 + 5 * random.uniform());
    all.push_back({i % 3 == 0 ? 100 * size : i % 3 == 1 ? size / 4 : 0, i % 5 == 0 ? 100 : size});
  }
  return all;
}

void expect_close(const Rates& found, const Rates& expected, double tolerance) {
  EXPECT_NEAR(found.operations_per_second / expected.operations_per_second, 1, tolerance);
  EXPECT_NEAR(found.bytes_per_second / expected.bytes_per_second, 1, tolerance);
  EXPECT_NEAR(found.seconds_per_run / expected.seconds_per_run, 1, tolerance);
}

TEST(FitRates, FindsTheRatesOfExactTimes) {
  std::vector<TimedRun> runs;
  for (const Work& work : some_work(60)) runs.push_back({work, machine.seconds(work)});
  const Rates found = fit_rates(runs, {1, 1, 1, 5});
  expect_close(found, machine, 1e-6);
  EXPECT_EQ(found.offload_bytes_per_second, 5) << "is not in these runs";
}

/// Ops stay better or worse than the table says, however often they are timed.
TEST(FitRates, AllRunsTogetherTakeAsLongAsTheyDid) {
  Random random(3);
  std::vector<TimedRun> runs;
  double all = 0;
  for (const Work& work : some_work(300)) {
    runs.push_back({work, machine.seconds(work) * (0.6 + 0.8 * random.uniform())});
    all += runs.back().seconds;
  }
  const Rates found = fit_rates(runs, machine);
  expect_close(found, machine, 0.2);
  double predicted = 0;
  for (const TimedRun& run : runs) predicted += found.seconds(run.work);
  EXPECT_NEAR(predicted / all, 1, 1e-3);
}

TEST(FitRates, NothingCostsLessThanNothing) {
  std::vector<TimedRun> runs;
  for (const Work& work : some_work(60)) {
    const double taken = work.operations / 2e11 + 4e-6 - work.bytes / 1e13;
    if (taken > 0) runs.push_back({work, taken});
  }
  const Rates found = fit_rates(runs, machine);
  for (const double rate : {found.operations_per_second, found.bytes_per_second, found.seconds_per_run}) {
    EXPECT_TRUE(std::isfinite(rate) && rate > 0) << rate;
  }
  EXPECT_GT(found.bytes_per_second, 1e13);
  EXPECT_THROW(memory::fit_rates({}, machine), ValueError);
  EXPECT_THROW(memory::fit_rates(std::vector<TimedRun>{{{1, 1}, 0}}, machine), ValueError);
}

/// A device that takes as long as `machine` says, and a step that is told of and timed like any other. Now and then
/// somebody else computes meanwhile.
class MadeUpDevice {
 public:
  explicit MadeUpDevice(double disturbed) : disturbed_(disturbed) {}

  double now() const { return now_; }

  void step(const PolicyPtr& policy) {
    if (policy == memory::reversible()) throw IdlePolicyError("nothing to act on");
    run(RunKind::Forward, work_[0], [] {});
    const bool replays = policy == memory::checkpoint();
    for (const Work& work : work_) {
      run(RunKind::Backward, {2 * work.operations, 2 * work.bytes}, [&] {
        if (replays) run(RunKind::Replay, work, [] {});
        if (policy == memory::offload()) run(RunKind::Fetch, {0, moved}, [] {});
      });
    }
    now_ += 1e-3;  // the optimiser
  }

  static constexpr double moved = 1e6;

 private:
  class Nothing : public Op {
   public:
    std::string_view name() const override { return "nothing"; }
    Cost cost() const override { return Cost::Free; }
    std::vector<TensorSpec> infer(std::span<const TensorSpec>) const override { return {}; }
    void forward(ForwardContext&) override {}
    Needs needs() const override { return {}; }
    void backward(BackwardContext&) override {}
  };

  template <class Inside>
  void run(RunKind kind, const Work& work, const Inside& inside) {
    observer()->run_begins({node_, nullptr, kind});
    inside();
    now_ += machine.seconds(kind, work);
    if (random_.uniform() < disturbed_) now_ += 1e-3 * random_.uniform();
    observer()->run_ends(work);
  }

  static Node made_node() {
    Node node;
    node.op = std::make_unique<Nothing>();
    return node;
  }

  Node node_ = made_node();
  std::vector<Work> work_ = some_work(40);
  double disturbed_;
  double now_ = 100;
  Random random_{5};
};

Rates calibrated(MadeUpDevice& device, int rounds) {
  Calibration calibration(Device::Cpu, [&] { return device.now(); });
  calibration.measure([&](const PolicyPtr& policy) { device.step(policy); }, rounds);
  return calibration.rates();
}

TEST(CalibrationTest, FindsTheRatesOfADevice) {
  MadeUpDevice device(0);
  const Rates found = calibrated(device, 1);
  expect_close(found, machine, 1e-6);
  EXPECT_NEAR(found.offload_bytes_per_second / machine.offload_bytes_per_second, 1, 1e-6);
}

TEST(CalibrationTest, OtherProgramsDoNotMatter) {
  MadeUpDevice device(0.2);
  expect_close(calibrated(device, 12), machine, 1e-3);
}

TEST(CalibrationTest, WantsTheSameStepEveryTime) {
  MadeUpDevice device(0);
  Calibration calibration(Device::Cpu, [&] { return device.now(); });
  int steps = 0;
  const auto step = [&](const PolicyPtr& policy) {
    device.step(policy);
    if (++steps > 8) device.step(policy);
  };
  EXPECT_THROW(calibration.measure(step, 2), StateError);
  EXPECT_THROW(calibration.measure(step, 0), ValueError);
}

TEST(CalibrationTest, MeasuresRealSteps) {
  const nn::DenseNetOptions spec = nn::DenseNetOptions::cifar(10, 4);
  nn::DenseNet model(spec, nn::Init(5, test::device()));
  nn::Sgd sgd(model.parameters(), {.learning_rate = 0.1});
  Random random(3);
  std::vector<float> pixels(2 * 3 * 32 * 32);
  for (float& pixel : pixels) pixel = static_cast<float>(random.normal());
  const Tensor images = Tensor::from_vector({2, 3, 32, 32}, pixels, test::device(), Tag::Data);
  const Tensor labels = Tensor::zeros({2}, Dtype::Int32, test::device(), Tag::Data);
  Calibration calibration(test::device());
  calibration.measure(
      [&](const PolicyPtr& policy) {
        model.set_memory(policy);
        sgd.zero_grad();
        ops::cross_entropy(model(images), labels).backward();
        sgd.step();
      },
      2);
  const Rates found = calibration.rates();
  for (const double rate :
       {found.operations_per_second, found.bytes_per_second, found.seconds_per_run, found.offload_bytes_per_second}) {
    EXPECT_TRUE(std::isfinite(rate) && rate > 0) << rate;
  }
  const std::string file = testing::TempDir() + "calibrated_rates.txt";
  found.save(file, "of a test\nin two lines");
  const Rates read = Rates::load(file, test::device());
  expect_close(read, found, 1e-5);
  EXPECT_NEAR(read.offload_bytes_per_second / found.offload_bytes_per_second, 1, 1e-5);
  std::filesystem::remove(file);
}

TEST(CalibrationTest, AFileThatCannotBeWrittenIsNamed) {
  for (const std::string& file : {testing::TempDir() + "nowhere/rates.txt", std::string("/dev/full")}) {
    try {
      machine.save(file);
      ADD_FAILURE() << file;
    } catch (const DataError& error) {
      EXPECT_NE(std::string(error.what()).find(file), std::string::npos) << error.what();
    }
  }
}

}  // namespace
}  // namespace palimpsest
