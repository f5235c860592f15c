// The parts of the examples' harness that need no training: flags, run lengths, schedules, reports, files.

#include <gtest/gtest.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <sstream>

#include <palimpsest/core/device.hpp>
#include <palimpsest/nn/models/densenet.hpp>
#include "examples/harness/command_line.hpp"
#include "examples/harness/example.hpp"
#include "examples/harness/interrupt.hpp"
#include "examples/harness/progress.hpp"
#include "examples/harness/report.hpp"
#include "examples/harness/report_file.hpp"
#include "examples/harness/training_step.hpp"
#include "tests/examples/small_densenet.hpp"

namespace palimpsest::harness {
namespace {

namespace fs = std::filesystem;

Options parsed(std::vector<const char*> arguments) {
  CommandLine line("example", "An example.");
  arguments.insert(arguments.begin(), "example");
  EXPECT_TRUE(line.parse(static_cast<int>(arguments.size()), arguments.data()));
  return line.options;
}

std::string refusal(std::vector<const char*> arguments) {
  try {
    parsed(std::move(arguments));
  } catch (const UsageError& error) {
    return error.what();
  }
  return "";
}

TEST(CommandLine, SetsWhatIsGivenAndKeepsTheDefaults) {
  const Options options =
      parsed({"--memory", "shared", "--batch-size", "7", "--no-augment", "--no-eval", "--lr", "0.5", "--data-dir",
              "somewhere", "--offload-dir", "elsewhere", "--seed", "18446744073709551615"});
  EXPECT_EQ(options.memory, "shared");
  EXPECT_EQ(options.batch_size, 7);
  EXPECT_FALSE(options.augment);
  EXPECT_FALSE(options.evaluate);
  EXPECT_EQ(options.learning_rate, 0.5);
  EXPECT_EQ(options.data_dir, "somewhere");
  EXPECT_EQ(options.offload_dir, "elsewhere");
  EXPECT_EQ(options.seed, UINT64_MAX);
  EXPECT_EQ(options.data, "fashion-mnist");
  EXPECT_EQ(options.momentum, 0.9);
}

TEST(CommandLine, RefusesWhatMakesNoSense) {
  const std::vector<std::vector<const char*>> wrong = {{"--no-such-flag"},
                                                       {"stray"},
                                                       {"--memory"},
                                                       {"--memory", "none"},
                                                       {"--data", "imagenet"},
                                                       {"--device", "tpu"},
                                                       {"--precision", "fp16"},
                                                       {"--verify", "some"},
                                                       {"--schedule", "x"},
                                                       {"--batch-size", "0"},
                                                       {"--epochs", "-1"},
                                                       {"--epochs", "2x"},
                                                       {"--max-steps", "1e99"},
                                                       {"--lr", "nan"},
                                                       {"--lr", "-0.1"},
                                                       {"--momentum", "inf"},
                                                       {"--threads", "257"},
                                                       {"--train-limit", "0"},
                                                       {"--seed", "-1"},
                                                       {"--warmup", "x"},
                                                       {"--weight-decay", ""}};
  for (const auto& arguments : wrong) {
    const std::string message = refusal(arguments);
    EXPECT_FALSE(message.empty()) << arguments[0];
    EXPECT_EQ(message.find('\n'), std::string::npos) << message;
    EXPECT_NE(message.find(arguments[0]), std::string::npos) << message;
  }
}

TEST(CommandLine, SaysWhichNamesThereAre) {
  EXPECT_NE(refusal({"--memory", "none"}).find("store-all, shared, checkpoint, reversible, offload"),
            std::string::npos);
  EXPECT_NE(refusal({"--data", "none"}).find("fashion-mnist, cifar10, cifar100, synthetic"), std::string::npos);
}

TEST(CommandLine, RefusesWhatWouldBeIgnored) {
  EXPECT_NE(refusal({"--budget", "2GiB"}).find("--memory budget=2GiB"), std::string::npos);
  EXPECT_EQ(parsed({"--budget", "2GiB", "--plan"}).budget, "2GiB");
  for (const char* const flag : {"--report", "--memory-report", "--memory-snapshot", "--trace"}) {
    const std::string message = refusal({"--plan", flag, "file"});
    EXPECT_EQ(message.find(concat_text(flag, " ")), 0U) << message;
    EXPECT_NE(message.find("--plan"), std::string::npos) << message;
  }
}

TEST(CommandLine, HelpListsFlagsPoliciesAndDefaults) {
  CommandLine line("example", "An example.");
  std::int64_t depth = 110;
  line.add("--depth", depth, "N", "layers");
  const std::vector<const char*> arguments = {"example", "--help"};
  testing::internal::CaptureStdout();
  EXPECT_FALSE(line.parse(2, arguments.data()));
  const std::string help = testing::internal::GetCapturedStdout();
  for (const char* const text : {"--depth N", "(default: 110)", "reversible", "--no-augment", "(default: 0.0001)",
                                 "fashion-mnist", "Exit status"}) {
    EXPECT_NE(help.find(text), std::string::npos) << text << " in\n" << help;
  }
  EXPECT_EQ(help.find("{false}"), std::string::npos);
}

TEST(RunLength, CountsThePartialBatchAndStopsAtTheStepLimit) {
  Options options;
  options.train_limit = 100;
  options.batch_size = 64;
  options.epochs = 3;
  EXPECT_EQ(run_length(options).steps_per_epoch, 2);
  EXPECT_EQ(run_length(options).steps, 6);
  EXPECT_EQ(run_length(options).epochs, 3);
  options.max_steps = 3;
  EXPECT_EQ(run_length(options).steps, 3);
  EXPECT_EQ(run_length(options).epochs, 2);
  options.batch_size = 1000;
  EXPECT_EQ(run_length(options).batch_size, 100);
  options.data = "imagenet";
  EXPECT_THROW(run_length(options), ValueError);
}

TEST(Schedule, SpansTheRun) {
  Options options;
  options.learning_rate = 1;
  const nn::Schedule step = make_schedule(options, 100);
  EXPECT_EQ(step.at(49), 1);
  EXPECT_DOUBLE_EQ(step.at(50), 0.1);
  EXPECT_DOUBLE_EQ(step.at(75), 0.01);
  options.schedule = "cosine";
  EXPECT_NEAR(make_schedule(options, 100).at(50), 0.5, 1e-12);
  options.schedule = "constant";
  options.warmup = 4;
  EXPECT_EQ(make_schedule(options, 100).at(0), 0.25);
  EXPECT_EQ(make_schedule(options, 100).at(99), 1);
  options.schedule = "linear";
  EXPECT_THROW(make_schedule(options, 100), ValueError);
}

TEST(Device, AutoIsAlwaysThereAndCudaSaysWhyNot) {
  EXPECT_EQ(choose_device("auto"), cuda_device_count() > 0 ? Device::Cuda : Device::Cpu);
  EXPECT_EQ(choose_device("cpu"), Device::Cpu);
  if (cuda_device_count() > 0) GTEST_SKIP() << "there is a CUDA device";
  try {
    choose_device("cuda");
    FAIL() << "there is no CUDA device";
  } catch (const DeviceError& error) {
    EXPECT_NE(std::string(error.what()).find(cuda_unavailable_reason()), std::string::npos) << error.what();
  }
}

TEST(PeakMeter, LeavesOutWhatHappensWhilePaused) {
  constexpr std::size_t size = 1 << 20;
  const std::size_t base = allocator(Device::MetaCpu).stats().live;
  PeakMeter meter(Device::MetaCpu);
  { const Buffer training(Device::MetaCpu, size, Tag::Activation); }
  meter.pause();
  { const Buffer evaluation(Device::MetaCpu, 5 * size, Tag::Activation); }
  EXPECT_EQ(meter.peak().total, base + size);
  meter.resume();
  EXPECT_EQ(meter.peak().total, base + size);
  { const Buffer training(Device::MetaCpu, 2 * size, Tag::Gradient); }
  EXPECT_EQ(meter.peak().total, base + 2 * size);
  EXPECT_EQ(meter.peak().by_tag[static_cast<std::size_t>(Tag::Gradient)], 2 * size);
  EXPECT_GE(meter.peak().reserved, 5 * size);
}

RunRecord three_steps() { return {.steps = {{2.5, 1000, 10}, {1.0 / 3, 100, 10}, {1.5, 300, 10}}}; }

TEST(RunRecord, LeavesTheFirstStepOutOfTheRate) {
  const RunRecord record = three_steps();
  EXPECT_DOUBLE_EQ(record.images_per_second(), 50);
  EXPECT_DOUBLE_EQ(record.images_per_second(1), 10 / 0.3);
  EXPECT_DOUBLE_EQ((RunRecord{.steps = {{1, 500, 10}}}).images_per_second(), 20);
  EXPECT_EQ(RunRecord{}.images_per_second(), 0);
  EXPECT_DOUBLE_EQ(record.mean_loss(1), (1.0 / 3 + 1.5) / 2);
}

TEST(RunRecord, AnAccuracyIsThatOfTheLastStepOrNone) {
  RunRecord record = three_steps();
  EXPECT_EQ(record.accuracy(), std::nullopt);
  record.evaluations.push_back({3, 0.875});
  EXPECT_EQ(record.accuracy(), 0.875);
  record.steps.push_back({1, 1, 1});
  EXPECT_EQ(record.accuracy(), std::nullopt);
}

Report some_report() {
  Report report;
  report.model = "Some(1)";
  report.device = "cpu";
  report.record = three_steps();
  report.forecast.parameters = 1234567;
  report.peak.by_tag = {1, 2, 3, 4, 5, 6, 7};
  report.peak.total = 28;
  report.peak.reserved = 64;
  report.state_digest = "00ff";
  report.model_flags["grid"] = nullptr;
  return report;
}

TEST(Report, HasTheKeysInTheirOrderAndAllDigits) {
  Report report = some_report();
  const Json json = Json::parse(to_json(report).dump());
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
  EXPECT_TRUE(json["device_name"].is_null());
  EXPECT_TRUE(json["device_used_bytes"].is_null());
  report.record.evaluations.push_back({3, 0.5});
  EXPECT_EQ(to_json(report)["test_accuracy"], 0.5);
}

TEST(Report, TagsAddUpToTheTotal) {
  const Json peak = to_json(some_report())["peak_bytes"];
  std::size_t sum = 0;
  for (int tag = 0; tag < tag_count; ++tag) {
    sum += peak.at(std::string(to_string(static_cast<Tag>(tag)))).get<std::size_t>();
  }
  EXPECT_EQ(sum, peak["total"]);
  EXPECT_EQ(peak["reserved"], 64);
  EXPECT_EQ(peak.size(), tag_count + 2U);
}

TEST(Report, SaysWhichCardAndHowMuchOfIt) {
  Report report = some_report();
  report.device = "cuda";
  report.card = Card{"Some Card", 3 << 20};
  EXPECT_EQ(to_json(report)["device_name"], "Some Card");
  EXPECT_EQ(to_json(report)["device_used_bytes"], 3 << 20);
  std::ostringstream out;
  print_summary(out, report);
  EXPECT_NE(out.str().find("Some Card; 3.000 MiB of it in use"), std::string::npos) << out.str();
}

TEST(Report, SaysHowMuchWasElsewhere) {
  Report report = some_report();
  std::ostringstream without;
  print_summary(without, report);
  EXPECT_EQ(without.str().find("offloaded"), std::string::npos) << without.str();
  report.offloaded = {0, 2 << 20, 3 << 20};
  EXPECT_EQ(to_json(report)["offloaded_peak_bytes"], 2 << 20);
  EXPECT_EQ(to_json(report)["offload_reserved_bytes"], 3 << 20);
  std::ostringstream out;
  print_summary(out, report);
  EXPECT_NE(out.str().find("offloaded      2.000 MiB at once, to a file in "), std::string::npos) << out.str();
}

TEST(Report, SummaryIsReadable) {
  std::ostringstream out;
  print_summary(out, some_report());
  for (const char* const text : {"1,234,567 parameters", "00ff", "50.0 images/s", "3 of "}) {
    EXPECT_NE(out.str().find(text), std::string::npos) << text << " in\n" << out.str();
  }
}

class ReportFileTest : public testing::Test {
 protected:
  ReportFileTest() : folder_(fs::temp_directory_path() / ("palimpsest_report_" + std::to_string(getpid()))) {
    fs::create_directories(folder_);
  }
  ~ReportFileTest() override { fs::remove_all(folder_); }

  std::string content(const std::string& name) const {
    std::ifstream in(folder_ / name);
    return {std::istreambuf_iterator<char>(in), {}};
  }
  std::ptrdiff_t files() const { return std::distance(fs::directory_iterator(folder_), {}); }

  fs::path folder_;
};

TEST_F(ReportFileTest, ReplacesTheWholeFileAndLeavesNothingElse) {
  const ReportFile file(folder_ / "report.json");
  EXPECT_EQ(files(), 0);
  file.write("first, and longer");
  file.write("second");
  EXPECT_EQ(content("report.json"), "second");
  EXPECT_EQ(files(), 1);
}

TEST_F(ReportFileTest, KeepsWhatIsThereUntilTheFirstWrite) {
  std::ofstream(folder_ / "report.json") << "old";
  const ReportFile file(folder_ / "report.json");
  EXPECT_EQ(content("report.json"), "old");
}

TEST_F(ReportFileTest, FollowsALink) {
  fs::create_symlink(folder_ / "real.json", folder_ / "link.json");
  ReportFile(folder_ / "link.json").write("text");
  EXPECT_TRUE(fs::is_symlink(folder_ / "link.json"));
  EXPECT_EQ(content("real.json"), "text");
}

TEST_F(ReportFileTest, SaysAtOnceThatItCannotBeWritten) {
  EXPECT_THROW(ReportFile(folder_ / "missing" / "report.json"), Error);
  EXPECT_THROW(ReportFile(folder_.string()), Error);
  EXPECT_FALSE(ReportFile(""));
  ReportFile("").write("nowhere");
}

TEST(Interrupt, TheFirstSignalIsNoted) {
  const InterruptGuard guard;
  EXPECT_FALSE(interrupted());
  std::raise(SIGINT);
  EXPECT_TRUE(interrupted());
}

TEST(Interrupt, TheSecondSignalEndsTheProcess) {
  testing::GTEST_FLAG(death_test_style) = "threadsafe";
  EXPECT_EXIT(
      {
        const InterruptGuard guard;
        std::raise(SIGINT);
        std::raise(SIGTERM);
      },
      testing::KilledBySignal(SIGTERM), "");
}

TEST(Progress, WritesDurations) {
  EXPECT_EQ(format_duration(0.2), "0 s");
  EXPECT_EQ(format_duration(59.4), "59 s");
  EXPECT_EQ(format_duration(272), "4:32");
  EXPECT_EQ(format_duration(3723), "1:02:03");
}

struct Outcome {
  int status;
  std::string errors;
};

/// Runs an example on a small DenseNet.
Outcome run_example(std::int64_t depth, std::vector<const char*> arguments) {
  Example example("example", "An example.");
  example.model_name = [] { return "Small"; };
  example.make_model = small_densenet(depth);
  arguments.insert(arguments.begin(), {"example", "--data", "synthetic"});
  testing::internal::CaptureStdout();
  testing::internal::CaptureStderr();
  const int status = example.run(static_cast<int>(arguments.size()), arguments.data());
  testing::internal::GetCapturedStdout();
  return {status, testing::internal::GetCapturedStderr()};
}

TEST(Example, RefusesBadFlagsWithStatusTwoAndOneLine) {
  const auto [status, message] = run_example(11, {});
  EXPECT_EQ(status, 2);
  EXPECT_EQ(message.find("example: DenseNet-BC depth is 11"), 0U) << message;
  EXPECT_EQ(message.find('\n'), message.size() - 1);
}

TEST(Example, KeepsTensorCoresForCuda) {
  const auto [status, message] = run_example(10, {"--device", "cpu", "--precision", "tf32"});
  EXPECT_EQ(status, 2);
  EXPECT_EQ(message, "example: --precision tf32 is for cuda, and this run is on the cpu\n");
}

TEST(Example, SaysOnceWhyAutoIsTheCpu) {
  std::vector<const char*> arguments = {"--train-limit", "4", "--batch-size", "2", "--epochs", "1", "--no-eval"};
  const auto notes = [](const std::string& errors) {
    const std::string note = "computing on the CPU";
    std::size_t count = 0;
    for (std::size_t at = errors.find(note); at != std::string::npos; at = errors.find(note, at + 1)) ++count;
    return count;
  };
  const bool cause = build::has_cuda && cuda_device_count() == 0;
  EXPECT_EQ(notes(run_example(10, arguments).errors), cause ? 1U : 0U);
  arguments.insert(arguments.end(), {"--device", "cpu"});
  EXPECT_EQ(notes(run_example(10, arguments).errors), 0U);
  arguments.back() = "auto";
  arguments.push_back("--quiet");
  EXPECT_EQ(run_example(10, arguments).errors, "");
}

}  // namespace
}  // namespace palimpsest::harness
