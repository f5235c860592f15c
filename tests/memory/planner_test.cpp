// Plans within a budget: on a meta device for what is predicted, on the device for what it then takes.

#include <palimpsest/memory/planner/planner.hpp>

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <memory>
#include <thread>

#include <palimpsest/memory/policies.hpp>
#include <palimpsest/nn/models/resnet.hpp>
#include "tests/support/training.hpp"

namespace palimpsest {
namespace {

using memory::Candidate;
using memory::Planner;
using memory::Rates;

using test::Training;

/// A training step of a model without data.
memory::Rehearsal rehearsal_of(Training& training, Device meta = test::meta_device()) {
  training.step();
  return {meta, [&training](const PolicyPtr& policy) {
            if (policy != nullptr) training.model().set_memory(policy);
            training.step();
          }};
}

using MakeTraining = std::function<Training(std::int64_t batch, Device device)>;

template <class Model, class TensorSpec>
MakeTraining maker_of(const TensorSpec& spec) {
  return [spec](std::int64_t batch, Device device) {
    return test::training_of<Model>(spec, nn::Init(5, device), test::noise(batch, device),
                                    {.learning_rate = 0.1, .momentum = 0.9});
  };
}

struct Case {
  std::string name;
  MakeTraining make;
  std::int64_t batch;
};

std::vector<Case> cases() {
  nn::ResidualOptions revnet = nn::RevNet::cifar(26);
  revnet.grid = 12;
  return {{"DenseNet", maker_of<nn::DenseNet>(nn::DenseNetOptions::cifar(22, 8)), 8},
          {"RevNet", maker_of<nn::RevNet>(revnet), 6},
          {"ResNet", maker_of<nn::ResNet>(nn::ResNet::cifar(20)), 6}};
}

class PlannerTest : public testing::TestWithParam<Case> {
 protected:
  static constexpr int budgets = 50;

  Training meta_ = GetParam().make(GetParam().batch, test::meta_device());
  memory::Rehearsal rehearsal_ = rehearsal_of(meta_);
  Rates rates_ = Rates::standard(Device::Cpu);
  Planner planner_{rehearsal_, rates_};
  std::size_t least_ = planner_.candidates().front().forecast.peak;
  std::size_t most_ = memory::forecast(rehearsal_, memory::store_all(), rates_).peak;

  std::size_t budget(int i) const { return least_ + (most_ - least_) * static_cast<std::size_t>(i) / (budgets - 1); }
};

TEST_P(PlannerTest, EveryBudgetIsKeptAndMoreOfItIsNeverSlower) {
  ASSERT_LT(least_, most_);
  double seconds = std::numeric_limits<double>::infinity();
  for (int i = 0; i < budgets; ++i) {
    const Candidate& chosen = planner_.within(budget(i));
    EXPECT_LE(chosen.forecast.peak, budget(i));
    EXPECT_LE(chosen.forecast.seconds, seconds);
    seconds = chosen.forecast.seconds;
  }
}

TEST_P(PlannerTest, NoSinglePolicyThatFitsIsBetter) {
  for (const PolicyPtr& policy : memory::combinations()) {
    if (memory::offloads(*policy)) continue;  // this planner may not
    const memory::StepForecast single = memory::forecast(rehearsal_, policy, rates_);
    EXPECT_LE(planner_.within(single.peak).forecast.seconds, single.seconds) << policy->name();
  }
}

TEST_P(PlannerTest, ThereIsMoreToChooseFromThanSinglePolicies) {
  EXPECT_GE(planner_.candidates().size(), 3U);
  std::size_t single = most_;
  for (const PolicyPtr& policy : {memory::shared(), memory::checkpoint()})
    single = std::min(single, memory::forecast(rehearsal_, policy, rates_).peak);
  EXPECT_LT(least_, single);
}

TEST_P(PlannerTest, TheSamePlansEveryTime) {
  const Planner again(rehearsal_, rates_);
  ASSERT_EQ(again.candidates().size(), planner_.candidates().size());
  for (std::size_t i = 0; i < again.candidates().size(); ++i) {
    EXPECT_EQ(again.candidates()[i].forecast.peak, planner_.candidates()[i].forecast.peak);
    EXPECT_EQ(again.candidates()[i].forecast.seconds, planner_.candidates()[i].forecast.seconds);
  }
}

TEST_P(PlannerTest, TooLittleIsRefusedWithTheLeastAndWhatPinsIt) {
  try {
    planner_.within(least_ - 1);
    FAIL() << "a budget below the least feasible";
  } catch (const ValueError& error) {
    const std::string text = error.what();
    EXPECT_NE(text.find(std::to_string(least_)), std::string::npos) << text;
    EXPECT_NE(text.find("pinned by"), std::string::npos) << text;
    EXPECT_NE(text.find("(" + std::to_string(GetParam().batch) + ", "), std::string::npos) << text;
  }
  EXPECT_EQ(planner_.within(least_).forecast.peak, least_);
}

/// Digest, measured peak and predicted peak of three steps under some of the candidates, the first and the last among
/// them: as measured, they need exactly what was predicted, and they compute what keeping everything computes.
TEST_P(PlannerTest, MeasuredPeaksAreThePredictedOnesAndTheBitsAreStoreAlls) {
  const auto run = [&](const PolicyPtr& policy) {
    Training training = GetParam().make(GetParam().batch, test::device());
    training.model().set_memory(policy);
    training.step();
    allocator(test::device()).reset_peak();
    for (int i = 0; i < 2; ++i) training.step();
    return std::pair(training.digest(), allocator(test::device()).stats().peak);
  };
  const std::size_t beside = allocator(test::device()).stats().live;
  const std::string expected = run(memory::store_all()).first;
  const auto& all = planner_.candidates();
  for (std::size_t i = 0; i < all.size(); i += std::max<std::size_t>(1, (all.size() - 1) / 7)) {
    const auto [digest, peak] = run(all[i].policy);
    EXPECT_EQ(digest, expected) << i;
    EXPECT_EQ(peak - beside, all[i].forecast.peak) << i;
  }
}

TEST_P(PlannerTest, APlanServesASmallerLastBatch) {
  Training training = GetParam().make(2, test::device());
  training.model().set_memory(planner_.candidates().front().policy);
  allocator(test::device()).reset_peak();
  const std::size_t before = allocator(test::device()).stats().live;
  training.step();
  EXPECT_LT(allocator(test::device()).stats().peak - before, least_);
}

INSTANTIATE_TEST_SUITE_P(Models, PlannerTest, testing::ValuesIn(cases()),
                         [](const auto& info) { return info.param.name; });

TEST(PlanTest, AnotherModelsPlanTakesNothingButMemoryAndTime) {
  Training dense = cases()[0].make(2, test::meta_device());
  const Planner planner(rehearsal_of(dense), Rates::standard(Device::Cpu));
  Training stored = cases()[2].make(2, test::device());
  stored.step();
  Training residual = cases()[2].make(2, test::device());
  residual.model().set_memory(planner.candidates().front().policy);
  residual.step();
  EXPECT_EQ(residual.digest(), stored.digest());
}

TEST(PlanTest, AnErrorOfTheStepIsNotTakenForAnIdlePolicy) {
  Training training = cases()[2].make(2, test::meta_device());
  memory::Rehearsal rehearsal = rehearsal_of(training);
  rehearsal.step = [step = rehearsal.step](const PolicyPtr& policy) {
    if (policy == memory::checkpoint()) throw ValueError("labels of another number than images");
    step(policy);
  };
  EXPECT_THROW(Planner(rehearsal, Rates::standard(Device::Cpu)), ValueError);
}

TEST(PlanTest, ADeepNetworkIsPlannedInSeconds) {
  Training training = maker_of<nn::DenseNet>(nn::DenseNetOptions::cifar(190, 40))(64, test::meta_device());
  const Planner planner(rehearsal_of(training), Rates::standard(Device::Cpu));
  EXPECT_LT(planner.rehearsals(),
            400U);  // of about 10 ms each: what bounds the time, and does not depend on the machine
  EXPECT_LT(planner.candidates().front().forecast.peak, std::size_t{1600} << 20);
}

/// Replaying each segment once needs 85 MiB at the best length of the segments.
TEST(PlanTest, ADeepChainOfUnitsKeepsCheckpointsOnTheWayToOthers) {
  Training training = maker_of<nn::ResNet>(nn::ResNet::cifar(110))(64, test::meta_device());
  const Planner planner(rehearsal_of(training), Rates::standard(Device::Cpu));
  EXPECT_LT(planner.candidates().front().forecast.peak, std::size_t{42} << 20);
}

/// Peaks and reserved bytes of the candidates, in order.
std::vector<std::size_t> plan_on(Device meta) {
  Training training = cases()[0].make(4, meta);
  const Planner planner(rehearsal_of(training, meta), Rates::standard(kernel_device(meta)));
  std::vector<std::size_t> bytes;
  for (const Candidate& candidate : planner.candidates()) {
    bytes.push_back(candidate.forecast.peak);
    bytes.push_back(candidate.forecast.peak_reserved);
  }
  return bytes;
}

TEST(PlanTest, ForTwoDevicesAtOnceAsForEachAlone) {
  for (const Device meta : {Device::MetaCpu, Device::MetaCuda}) allocator(meta).release_cached();
  const std::vector<std::size_t> cpu = plan_on(Device::MetaCpu);
  const std::vector<std::size_t> cuda = plan_on(Device::MetaCuda);
  EXPECT_NE(cpu, cuda);
  for (const Device meta : {Device::MetaCpu, Device::MetaCuda}) allocator(meta).release_cached();
  std::vector<std::size_t> beside;
  std::thread other([&] { beside = plan_on(Device::MetaCuda); });
  EXPECT_EQ(plan_on(Device::MetaCpu), cpu);
  other.join();
  EXPECT_EQ(beside, cuda);
}

TEST(RehearsalTest, WithoutAnythingToPlanIsRefused) {
  const auto refusal = [](const memory::Rehearsal& rehearsal) {
    try {
      const memory::Planner planner(rehearsal, memory::Rates::standard(Device::Cpu));
    } catch (const ValueError& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  const auto nothing = [](const PolicyPtr&) {};
  EXPECT_EQ(refusal({.device = Device::MetaCpu, .step = nothing}),
            "there is nothing to plan: the step records no op on meta-cpu");
  EXPECT_EQ(refusal({.device = Device::MetaCpu, .step = nullptr}), "a Rehearsal without a step");
  EXPECT_EQ(refusal({.device = Device::Cpu, .step = nothing}), "a Rehearsal on cpu, expected a meta device");
}

TEST(RatesTest, NoRateAtAllIsRefused) {
  const memory::Rehearsal rehearsal{.device = Device::MetaCpu, .step = [](const PolicyPtr&) {}};
  const auto refusal = [&](const memory::Rates& rates) {
    try {
      memory::Planner(rehearsal, rates);
    } catch (const ValueError& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  EXPECT_EQ(refusal({}), "rates: operations_per_second is 0, expected a positive number");
  memory::Rates rates = memory::Rates::standard(Device::Cpu);
  rates.offload_bytes_per_second = NAN;
  EXPECT_EQ(refusal(rates), "rates: offload_bytes_per_second is nan, expected a positive number");
}

TEST(RatesTest, AreReadBackAsWritten) {
  const std::string file = testing::TempDir() + "rates.txt";
  const Rates written{1.5e11, 2e10, 3e-6, 7e8};
  written.save(file);
  const Rates read = Rates::load(file, Device::Cpu);
  EXPECT_EQ(read.operations_per_second, written.operations_per_second);
  EXPECT_EQ(read.bytes_per_second, written.bytes_per_second);
  EXPECT_EQ(read.seconds_per_run, written.seconds_per_run);
  EXPECT_EQ(read.offload_bytes_per_second, written.offload_bytes_per_second);
  std::filesystem::remove(file);
  EXPECT_THROW(Rates::load(file, Device::Cpu), DataError);
}

TEST(RatesTest, BadLinesAreNamed) {
  const std::string file = testing::TempDir() + "bad_rates.txt";
  for (const char* line : {"operations 3", "bytes_per_second", "bytes_per_second fast", "bytes_per_second 0",
                           "bytes_per_second -1", "bytes_per_second inf", "bytes_per_second 1 2"}) {
    std::ofstream(file) << "# a comment\n" << line << '\n';
    try {
      Rates::load(file, Device::Cpu);
      ADD_FAILURE() << line;
    } catch (const DataError& error) {
      EXPECT_NE(std::string(error.what()).find("line 2"), std::string::npos) << error.what();
    }
  }
  std::filesystem::remove(file);
}

std::string complaint_about_rates(const std::string& file) {
  try {
    Rates::load(file, Device::Cpu);
    return "taken";
  } catch (const DataError& error) {
    return error.what();
  }
}

TEST(RatesTest, AFileWithoutRatesIsNoTable) {
  const std::string file = testing::TempDir() + "no_rates.txt";
  std::ofstream(file).flush();
  EXPECT_EQ(complaint_about_rates(file), file + ", line 1: the file ends without a rate, expected at least one");
  std::ofstream(file) << "# a comment\n\n";
  EXPECT_EQ(complaint_about_rates(file), file + ", line 3: the file ends without a rate, expected at least one");
  std::filesystem::remove(file);
}

TEST(RatesTest, ARateThatIsGivenTwiceIsNamed) {
  const std::string file = testing::TempDir() + "rates_twice.txt";
  std::ofstream(file) << "bytes_per_second 1\nseconds_per_run 1\nbytes_per_second 1\n";
  EXPECT_EQ(complaint_about_rates(file),
            file + ", line 3: 'bytes_per_second 1', line 1 gives the same rate, expected each once");
  std::filesystem::remove(file);
}

TEST(RatesTest, AFolderIsNoTable) {
  EXPECT_EQ(complaint_about_rates(testing::TempDir()), testing::TempDir() + ": cannot be read");
}

TEST(PlanTest, OffloadsToTheFolderThatIsAskedFor) {
  Training training = cases()[2].make(2, test::meta_device());
  const memory::OffloadOptions nowhere{.at_least = 0, .directory = testing::TempDir() + "nowhere"};
  Rates rates = Rates::standard(Device::Cpu);
  rates.offload_bytes_per_second = 1e15;  // for nothing
  const Planner planner(rehearsal_of(training), rates, nowhere);
  Training real = cases()[2].make(2, Device::Cpu);
  std::size_t offloading = 0;
  for (const Candidate& candidate : planner.candidates()) {
    real.model().set_memory(candidate.policy);
    try {
      real.step();
    } catch (const OffloadError& error) {
      EXPECT_NE(std::string(error.what()).find(nowhere.directory), std::string::npos) << error.what();
      ++offloading;
    }
  }
  EXPECT_GT(offloading, 0U);
}

}  // namespace
}  // namespace palimpsest
