// The report of a run: its keys, its sums, and the summary for people.

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <sstream>

#include <palimpsest/reports/run_report.hpp>
#include "tests/train/small_tasks.hpp"

namespace palimpsest::reports {
namespace {

using Json = nlohmann::ordered_json;

RunReport some_report() {
  RunReport report;
  report.task = test::small_densenet(10);
  report.record = {.steps = {{2.5, 1000, 10}, {1.0 / 3, 100, 10}, {1.5, 300, 10}}};
  report.forecast.parameters = 1234567;
  report.peak.by_tag = {1, 2, 3, 4, 5, 6, 7};
  report.peak.total = 28;
  report.peak.reserved = 64;
  report.state_digest = "00ff";
  report.fields = {{"grid", {}}, {"learning_rate", 0.1}, {"schedule", std::string("step")}, {"augment", true}};
  return report;
}

TEST(RunReport, HasTheKeysInTheirOrderAndAllDigits) {
  RunReport report = some_report();
  const Json json = Json::parse(to_json(report));
  std::vector<std::string> keys;
  for (const auto& [key, value] : json.items()) keys.push_back(key);
  const std::vector<std::string> expected = {
      "model", "parameters",        "policy",     "device",       "data",         "batch_size", "seed", "threads",
      "steps", "images_per_second", "peak_bytes", "state_digest", "test_accuracy"};
  ASSERT_GE(keys.size(), expected.size());
  EXPECT_EQ(std::vector<std::string>(keys.begin(), keys.begin() + static_cast<std::ptrdiff_t>(expected.size())),
            expected);
  EXPECT_EQ(json["steps"][1]["loss"].get<double>(), 1.0 / 3);
  EXPECT_EQ(json["steps"][1]["ms"], 100);
  EXPECT_TRUE(json["test_accuracy"].is_null());
  EXPECT_TRUE(json["grid"].is_null());
  EXPECT_EQ(json["schedule"], "step");
  EXPECT_EQ(json["augment"], true);
  EXPECT_TRUE(json["device_name"].is_null());
  EXPECT_TRUE(json["device_used_bytes"].is_null());
  report.record.evaluations.push_back({3, 0.5});
  EXPECT_EQ(Json::parse(to_json(report))["test_accuracy"], 0.5);
}

TEST(RunReport, TagsAddUpToTheTotal) {
  const Json peak = Json::parse(to_json(some_report()))["peak_bytes"];
  std::size_t sum = 0;
  for (int tag = 0; tag < tag_count; ++tag) {
    sum += peak.at(std::string(to_string(static_cast<Tag>(tag)))).get<std::size_t>();
  }
  EXPECT_EQ(sum, peak["total"]);
  EXPECT_EQ(peak["reserved"], 64);
  EXPECT_EQ(peak.size(), tag_count + 2U);
}

TEST(RunReport, SaysWhichCardAndHowMuchOfIt) {
  RunReport report = some_report();
  report.options.device = Device::Cuda;
  report.card = Card{"Some Card", 3 << 20};
  EXPECT_EQ(Json::parse(to_json(report))["device_name"], "Some Card");
  EXPECT_EQ(Json::parse(to_json(report))["device_used_bytes"], 3 << 20);
  std::ostringstream out;
  print_summary(out, report);
  EXPECT_NE(out.str().find("Some Card; 3.000 MiB of it in use"), std::string::npos) << out.str();
}

TEST(RunReport, SaysHowMuchWasElsewhere) {
  RunReport report = some_report();
  std::ostringstream without;
  print_summary(without, report);
  EXPECT_EQ(without.str().find("offloaded"), std::string::npos) << without.str();
  report.offloaded = {0, 2 << 20, 3 << 20};
  EXPECT_EQ(Json::parse(to_json(report))["offloaded_peak_bytes"], 2 << 20);
  EXPECT_EQ(Json::parse(to_json(report))["offload_reserved_bytes"], 3 << 20);
  std::ostringstream out;
  print_summary(out, report);
  EXPECT_NE(out.str().find("offloaded      2.000 MiB at once, to a file in "), std::string::npos) << out.str();
}

TEST(RunReport, SaysWhatWasReplacedAndWhatWasNotEvaluated) {
  RunReport report = some_report();
  report.task.evaluation.samples = 40;
  report.evaluated = 38;
  report.left_out = {"train/1.png: no picture"};
  report.not_evaluated = {"val/1.png: no picture", "val/2.png: no picture"};
  const Json json = Json::parse(to_json(report));
  EXPECT_EQ(json["evaluated"], 38);
  EXPECT_EQ(json["left_out"], Json(report.left_out));
  EXPECT_EQ(json["not_evaluated"], Json(report.not_evaluated));
  std::ostringstream out;
  print_summary(out, report);
  EXPECT_NE(out.str().find("  left out       1 images that could not be read; others were taken for them\n"
                           "    train/1.png: no picture\n"
                           "  not evaluated  2 of 40 images, which could not be read\n"
                           "    val/1.png: no picture\n    val/2.png: no picture\n"),
            std::string::npos)
      << out.str();
  EXPECT_TRUE(Json::parse(to_json(some_report()))["evaluated"].is_null());
}

TEST(RunReport, SaysWhereTheRestOfAListIsOnlyIfItIsThere) {
  RunReport report = some_report();
  report.left_out.assign(12, "1.png: no picture");
  for (const auto& [file, expected] : {std::pair("", "    and 2 more\n"),
                                       std::pair("a/report.json", "    and 2 more, which are in a/report.json\n")}) {
    report.file = file;
    std::ostringstream out;
    print_summary(out, report);
    EXPECT_NE(out.str().find(expected), std::string::npos) << out.str();
  }
}

TEST(RunReport, SummaryIsReadable) {
  std::ostringstream out;
  print_summary(out, some_report());
  for (const char* const text : {"1,234,567 parameters", "00ff", "50.0 images/s", "3 of "}) {
    EXPECT_NE(out.str().find(text), std::string::npos) << text << " in\n" << out.str();
  }
}

TEST(RunReport, CallsMetricAndSamplesByTheTasksNames) {
  RunReport report = some_report();
  report.task.metric = "mse";
  report.task.metric_is_share = false;
  report.task.unit = "rows";
  report.record.evaluations.push_back({3, 0.125});
  const Json json = Json::parse(to_json(report));
  EXPECT_EQ(json["test_mse"], 0.125);
  EXPECT_EQ(json["evaluations"][0]["mse"], 0.125);
  EXPECT_GT(json["rows_per_second"], 0);
  std::ostringstream out;
  print_summary(out, report);
  EXPECT_NE(out.str().find("  test mse       0.125\n"), std::string::npos) << out.str();
}

}  // namespace
}  // namespace palimpsest::reports
