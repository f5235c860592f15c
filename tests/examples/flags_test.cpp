// The examples' flags, and the programs' exit status and messages.

#include <gtest/gtest.h>

#include <palimpsest/core/device.hpp>
#include <palimpsest/nn/models/densenet.hpp>
#include "examples/flags/command_line.hpp"
#include "examples/flags/example.hpp"

namespace palimpsest::flags {
namespace {

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
  for (const char* const flag : {"--report", "--memory-report", "--memory-snapshot", "--trace", "--log-dir"}) {
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

TEST(ExpectedData, IsWhatTheLimitsLeave) {
  Options options;
  options.train_limit = 100;
  const ImageData data = expected_data(options, {});
  EXPECT_EQ(data.training.samples, 100);
  EXPECT_EQ(data.evaluation.samples, 10000);
  options.evaluate = false;
  EXPECT_EQ(expected_data(options, {}).evaluation.samples, 0);
  options.data = "imagenet";
  EXPECT_THROW(expected_data(options, {}), ValueError);
}

TEST(ExpectedData, SyntheticImagesHaveTheSizeThatIsAskedFor) {
  Options options;
  options.data = "synthetic";
  options.image_size = 40;
  options.classes = 7;
  EXPECT_EQ(data_facts(options).stored_size, 40);
  EXPECT_EQ(data_facts(options).classes, 7);
  options.train_limit = 5;
  options.test_limit = 3;
  const ImageData data = load_data(options, {});
  EXPECT_EQ(data.training.samples, 5);
  EXPECT_EQ(data.evaluation.samples, 3);
  const std::unique_ptr<train::Batches> batches = data.training.open(5, Device::Cpu);
  batches->start_epoch(0);
  EXPECT_EQ(batches->next()->tensors[0].shape(), (Shape{5, 3, 40, 40}));
  options.data = "cifar10";
  options.image_size = 31;
  EXPECT_THROW(data_facts(options), ValueError) << "images are not cut";
}

/// The schedule of the task that the flags describe.
nn::Schedule schedule(const Options& options, std::int64_t steps) {
  return image_task("", nullptr, 0, options, {}, {}).schedule(steps);
}

TEST(ScheduleFlag, SpansTheRun) {
  Options options;
  options.learning_rate = 1;
  const nn::Schedule step = schedule(options, 100);
  EXPECT_EQ(step.at(49), 1);
  EXPECT_DOUBLE_EQ(step.at(50), 0.1);
  EXPECT_DOUBLE_EQ(step.at(75), 0.01);
  options.schedule = "cosine";
  EXPECT_NEAR(schedule(options, 100).at(50), 0.5, 1e-12);
  options.schedule = "constant";
  options.warmup = 4;
  EXPECT_EQ(schedule(options, 100).at(0), 0.25);
  EXPECT_EQ(schedule(options, 100).at(99), 1);
  options.schedule = "linear";
  EXPECT_THROW(schedule(options, 100), ValueError);
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

struct Outcome {
  int status;
  std::string errors;
};

/// Runs an example on a small DenseNet.
Outcome run_example(std::int64_t depth, std::vector<const char*> arguments) {
  Example example("example", "An example.");
  example.model_name = [] { return "Small"; };
  example.make_model = [depth](const DataFacts& data, std::int64_t, nn::Init init) {
    nn::DenseNetOptions options = nn::DenseNetOptions::cifar(depth, 4);
    options.image_channels = data.channels;
    return std::make_unique<nn::DenseNet>(options, std::move(init));
  };
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
}  // namespace palimpsest::flags
