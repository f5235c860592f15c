// Forecasts of policies and savings for the page of a step's memory.

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <map>
#include <utility>

#include <palimpsest/memory/policies.hpp>
#include <palimpsest/reports/plan_table.hpp>
#include <palimpsest/reports/policy_forecasts.hpp>
#include <palimpsest/train/rehearsal.hpp>
#include "tests/train/small_tasks.hpp"

namespace palimpsest::reports {
namespace {

namespace fs = std::filesystem;

constexpr std::int64_t batch_size = 2;

std::vector<PolicyForecast> forecasts_of(const train::Task& task, const train::Options& options) {
  return policy_forecasts(task, options, train::choose_memory(task, options));
}

TEST(PolicyForecasts, AreThoseOfDryRuns) {
  train::Options options{.batch_size = batch_size};
  const memory::StepTrace measured =
      train::rehearse_step(test::small_revnet(), options, {memory::parse("store-all").rules()});
  const std::vector<PolicyForecast> forecasts = forecasts_of(test::small_revnet(), options);
  ASSERT_EQ(forecasts.size(), memory::names().size());
  for (const PolicyForecast& each : forecasts) {
    options.memory = each.policy;
    const train::MemoryPeak peak = train::rehearse(test::small_revnet(), options).peak;
    EXPECT_EQ(each.peak, peak.total) << each.policy;
    EXPECT_EQ(each.by_tag, peak.by_tag) << each.policy;
    EXPECT_GT(each.operations, 0) << each.policy;
    EXPECT_GT(each.time_factor, 0) << each.policy;
  }
  EXPECT_EQ(forecasts[0].policy, "store-all");
  EXPECT_EQ(forecasts[0].time_factor, 1);
  EXPECT_EQ(forecasts[0].operations, measured.work().operations);
}

/// The page, --plan and the planner have one table of rates.
TEST(PolicyForecasts, TellTheTimeOfThePlan) {
  const fs::path file = fs::temp_directory_path() / ("palimpsest_rates_" + std::to_string(getpid()));
  memory::Rates{3e11, 2e10, 7e-6, 5e8}.save(file);
  train::Options options{.batch_size = batch_size};
  double offload = 0;
  for (const std::string& rates : {std::string(), file.string()}) {
    options.rates = rates;
    std::map<std::string, double> planned;
    for (const PlanRow& row : plan_rows(test::small_revnet(), options)) planned[row.policy] = row.forecast.seconds;
    for (const PolicyForecast& each : forecasts_of(test::small_revnet(), options)) {
      ASSERT_EQ(planned.count(each.policy), 1U) << each.policy;
      EXPECT_NEAR(each.time_factor, planned[each.policy] / planned["store-all"], 1e-9) << each.policy << ", " << rates;
      if (each.policy != "offload") continue;
      EXPECT_NE(each.time_factor, offload) << "whatever the table";
      offload = each.time_factor;
    }
  }
  fs::remove(file);
}

/// Counts what is run of it.
class CountingRevNet : public nn::RevNet {
 public:
  CountingRevNet(const nn::ResidualOptions& spec, nn::Init init, int& runs)
      : RevNet(spec, std::move(init)), runs_(runs) {}

 protected:
  Tensor forward(Tensor images) override {
    ++runs_;
    return RevNet::forward(std::move(images));
  }

 private:
  int& runs_;
};

TEST(PolicyForecasts, OfABudgetAreNotPlannedAgain) {
  int runs = 0;
  const train::Task task = test::image_task(
      [&](nn::Init init) { return std::make_unique<CountingRevNet>(nn::RevNet::cifar(14), std::move(init), runs); });
  train::Options options{.batch_size = batch_size};
  options.memory = "budget=4MiB";
  const train::MemoryChoice memory = train::choose_memory(task, options);
  ASSERT_TRUE(memory.planner.has_value());
  const int planning = std::exchange(runs, 0);
  const std::vector<PolicyForecast> forecasts = policy_forecasts(task, options, memory);
  EXPECT_EQ(forecasts.back().policy, options.memory);
  EXPECT_EQ(forecasts.back().peak, train::rehearse(task, options, memory).peak.total);
  const std::vector<Saving> savings = cheapest_savings(task, options, memory);
  EXPECT_FALSE(savings.empty());
  EXPECT_LT(runs, planning / 2);
  train::MemoryChoice without = memory;
  without.planner.reset();
  const std::vector<Saving> planned_again = cheapest_savings(task, options, without);
  ASSERT_EQ(savings.size(), planned_again.size());
  for (std::size_t i = 0; i < savings.size(); ++i) {
    EXPECT_EQ(savings[i].peak, planned_again[i].peak);
    EXPECT_EQ(savings[i].change, planned_again[i].change);
  }
}

TEST(PolicyForecasts, LeaveOutAPolicyWithoutWork) {
  train::Options options{.batch_size = batch_size};
  for (const Device device : {Device::Cpu, Device::Cuda}) {
    options.device = device;
    std::vector<std::string> policies;
    for (const PolicyForecast& each : forecasts_of(test::small_densenet(10), options)) {
      policies.push_back(each.policy);
      EXPECT_GT(each.time_factor, 0) << "every device has a table";
    }
    EXPECT_EQ(policies, (std::vector<std::string>{"store-all", "shared", "checkpoint", "offload"}));
  }
}

}  // namespace
}  // namespace palimpsest::reports
