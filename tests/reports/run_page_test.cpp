// The page of runs: its data against the runs'; tests/examples/run_log_test.py has it in a browser.

#include <palimpsest/reports/run_page.hpp>

#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include <palimpsest/core/error.hpp>

namespace palimpsest::reports {
namespace {

using Json = nlohmann::ordered_json;

RunHistory history(std::int64_t steps) {
  RunHistory run{.name = "one</script>", .facts = {.model = "Net<1>", .policy = "shared"}};
  for (std::int64_t step = 1; step <= steps; ++step) {
    run.steps.push_back(step);
    run.losses.push_back(static_cast<double>(step) / 3);
    run.learning_rates.push_back(1.0 / static_cast<double>(step));
    run.rates.push_back(step == 1 ? std::nan("") : static_cast<double>(100 * step));
    run.peaks.push_back(static_cast<std::size_t>(step % 7));
  }
  run.evaluated_steps = {1, 2};
  run.metrics = {0.75, 0.5};
  return run;
}

TEST(RunPage, HasTheNumbersOfTheLog) {
  const RunHistory run = history(5);
  const Json data = Json::parse(run_page_data({run}))["runs"][0];
  EXPECT_EQ(data["steps_of_a_point"], 1);
  EXPECT_EQ(data["steps"], run.steps);
  EXPECT_EQ(data["loss"], run.losses);
  EXPECT_EQ(data["learning_rate"], run.learning_rates);
  EXPECT_EQ(data["peak"], run.peaks);
  EXPECT_EQ(data["rate"], Json::parse("[null, 200.0, 300.0, 400.0, 500.0]"));
  EXPECT_EQ(data["metric"], run.metrics);
  const Json expected = {{"steps", 5},    {"loss", 5.0 / 3}, {"rate", 400.0}, {"peak", 5},
                         {"metric", 0.5}, {"best", 0.75},    {"best_step", 1}};
  EXPECT_EQ(data["summary"], expected);
}

TEST(RunPage, JoinsTheStepsOfALongRunAndLosesNoPeak) {
  RunHistory run = history(30'001);
  run.peaks[12'345] = 1'000;
  run.losses[4] = std::nan("");
  const Json data = Json::parse(run_page_data({run}))["runs"][0];
  EXPECT_EQ(data["steps_of_a_point"], 4);
  ASSERT_EQ(data["loss"].size(), 7'501U);
  EXPECT_EQ(data["steps"][0], 4);
  EXPECT_EQ(data["steps"][7'500], 30'001);
  EXPECT_DOUBLE_EQ(data["loss"][0], 2.5 / 3);
  EXPECT_DOUBLE_EQ(data["loss"][1], 7.0 / 3) << "of the three that are numbers";
  EXPECT_EQ(data["rate"][0], 300);
  EXPECT_EQ(data["peak"][12'345 / 4], 1'000);
  EXPECT_EQ(data["learning_rate"][0], 0.25);
  EXPECT_EQ(data["summary"]["peak"], 1'000);
}

TEST(RunPage, IsOnePageOfHtmlWhateverTheNames) {
  const std::string page = run_page({history(2), history(3)});
  EXPECT_NE(page.find("<title>2 training runs</title>"), std::string::npos);
  EXPECT_EQ(page.find("one</script>"), std::string::npos);
  EXPECT_NE(run_page({history(1)}).find("<title>Training of Net&lt;1> under shared</title>"), std::string::npos);
  EXPECT_NE(run_page({RunHistory{.name = "nothing yet"}}).find("nothing yet"), std::string::npos);
  EXPECT_THROW(run_page({}), ValueError);
}

}  // namespace
}  // namespace palimpsest::reports
