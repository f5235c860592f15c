// The whole of a run from a program's side: every line of docs/memory.md's example, on a task that is no classifier.

#include <palimpsest/reports/run.hpp>

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <sstream>
#include <utility>

#include <palimpsest/core/error.hpp>
#include <palimpsest/reports/plan_table.hpp>
#include "tests/support/plain_nets.hpp"
#include "tests/support/source_root.hpp"
#include "tests/train/row_task.hpp"
#include "tests/train/small_tasks.hpp"

namespace palimpsest::reports {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

class RunTest : public testing::Test {
 protected:
  RunTest() : folder_(fs::temp_directory_path() / ("palimpsest_run_" + std::to_string(getpid()))) {
    fs::create_directories(folder_);
  }
  ~RunTest() override { fs::remove_all(folder_); }

  std::string content(const std::string& name) const {
    std::ifstream in(folder_ / name);
    return {std::istreambuf_iterator<char>(in), {}};
  }

  fs::path folder_;
};

/// The lines that docs/memory.md shows, without the program's own definitions.
void example(const train::Task& task, std::ostream& out, const fs::path& folder) {
  // [example]
  train::Options options{.memory = "budget=40KiB", .verify = Verify::Sampled, .batch_size = 8, .epochs = 3};
  reports::print_plan(out, task, options);
  reports::Run run(task, options,
                   {.report = folder / "report.json",
                    .page = folder / "page.html",
                    .snapshot = folder / "snapshot.json",
                    .trace = folder / "trace.json"});
  out << run.announcement();
  run.train(out);
  // [example]
}

TEST_F(RunTest, GivesAnyProgramAllThatTheExamplesHave) {
  std::ostringstream out;
  example(test::row_task(), out, folder_);
  for (const char* const text :
       {"Net on rows, batches of 8", "predicted time", "budget=40KiB: recipes: ", "Net under budget=40KiB will need ",
        "epoch 3/3: loss ", "rows/s, test mean ", "9 of 9 with batches of 8", "state digest"}) {
    EXPECT_NE(out.str().find(text), std::string::npos) << text << " in\n" << out.str();
  }
  const Json report = Json::parse(content("report.json"));
  EXPECT_EQ(report["peak_bytes"]["total"], report["predicted_peak_bytes"]);
  EXPECT_LE(report["peak_bytes"]["total"].get<std::size_t>(), std::size_t{40} << 10);
  EXPECT_EQ(report["evaluation_peak_bytes"]["total"], report["predicted_evaluation_peak_bytes"]);
  EXPECT_EQ(report["evaluations"].size(), 3U);
  EXPECT_NE(content("page.html").find("</html>"), std::string::npos);
  EXPECT_FALSE(Json::parse(content("snapshot.json"))["segments"].empty());
  EXPECT_FALSE(Json::parse(content("trace.json"))["traceEvents"].empty());
}

TEST_F(RunTest, IsQuotedInTheDocumentation) {
  const auto text_of = [](const fs::path& path) {
    std::ifstream in(test::source_root() / path);
    return std::string(std::istreambuf_iterator<char>(in), {});
  };
  const std::string source = text_of("tests/reports/run_test.cpp");
  const std::string mark = "  // [example]\n";
  const std::size_t begin = source.find(mark) + mark.size();
  std::string lines = source.substr(begin, source.find(mark, begin) - begin);
  std::istringstream in(lines);
  std::string quoted;
  for (std::string line; std::getline(in, line);) quoted += line.substr(2) + "\n";
  EXPECT_NE(text_of("docs/memory.md").find(quoted), std::string::npos) << quoted;
}

TEST_F(RunTest, AdvisesWhereMemoryRunsOut) {
  train::Options options{.batch_size = 8, .quiet = true};
  reports::Run run(test::row_task(), options);
  Allocator& memory = allocator(Device::Cpu);
  const std::size_t before = memory.limit();
  memory.set_limit(memory.stats().live + run.forecast().peak.total - 1);
  std::ostringstream out;
  try {
    run.train(out);
    ADD_FAILURE() << "there is a byte too little";
  } catch (const OutOfMemory& error) {
    const std::string expected = "; by the forecast no policy fits with batches of 8: the least is ";
    EXPECT_NE(std::string(error.what()).find(expected), std::string::npos) << error.what();
  }
  memory.set_limit(before);
}

TEST_F(RunTest, HasTheModelThatItHasTrainedAndWritesWhereItIsTold) {
  reports::Run run(test::row_task(), {.batch_size = 8, .epochs = 2});
  EXPECT_THROW(run.model(), StateError);
  std::ostringstream out;
  EXPECT_TRUE(run.train(out));
  EXPECT_NE(out.str().find("epoch 2/2: loss "), std::string::npos) << out.str();
  const std::string digest = run.model().state_digest();
  EXPECT_GT(run.optimiser().learning_rate(), 0);
  EXPECT_TRUE(run.train(out));  // once more from the beginning
  EXPECT_EQ(run.model().state_digest(), digest);
  EXPECT_EQ(run.record().steps.back().samples, 4);
}

/// The announcement of a run of a net of one block, and the peak that it foresees.
std::pair<std::string, std::size_t> announced(int layers, double dropout, const std::string& memory) {
  const train::Task task = test::image_task([=](nn::Init init) {
    return std::make_unique<test::PlainNet>(test::PlainNetOptions{.blocks = 1, .layers = layers, .dropout = dropout},
                                            std::move(init));
  });
  const reports::Run run(task, {.memory = memory, .batch_size = 8, .quiet = true});
  return {run.announcement(), run.forecast().peak.total};
}

TEST_F(RunTest, SaysSoWhereStoreAllWouldNeedLess) {
  const std::string text = announced(2, 0.2, "checkpoint").first;
  EXPECT_NE(text.find(" of store-all; the thriftiest is memory shared with "), std::string::npos) << text;
  EXPECT_EQ(announced(2, 0.2, "store-all").first.find("thriftiest"), std::string::npos);
}

TEST_F(RunTest, SaysSoInTheSmallestNetsToo) {
  for (const int layers : {1, 2, 3}) {
    int above = 0;
    for (const double dropout : {0.0, 0.2}) {
      const std::size_t stored = announced(layers, dropout, "store-all").second;
      for (const char* const memory : {"shared", "checkpoint", "checkpoint+shared", "block1=checkpoint", "offload"}) {
        const auto [text, peak] = announced(layers, dropout, memory);
        const bool said = text.find("that is more than the ") != std::string::npos;
        EXPECT_EQ(said, peak > stored) << layers << " layers, dropout " << dropout << ": " << text;
        above += peak > stored ? 1 : 0;
      }
    }
    EXPECT_TRUE(above > 0 || layers == 3) << layers << " layers: a policy that replays one block saves nothing";
  }
}

TEST_F(RunTest, NamesThePoliciesThatHaveSomethingToActOn) {
  try {
    reports::Run(test::small_densenet(10), {.memory = "reversible"});
    FAIL() << "there is nothing to reverse in a DenseNet";
  } catch (const IdlePolicyError& error) {
    const std::string text = error.what();
    for (const char* const name : {"'reversible' finds nothing", "memory shared (", "memory checkpoint ("}) {
      EXPECT_NE(text.find(name), std::string::npos) << text;
    }
    EXPECT_EQ(text.find("memory reversible"), std::string::npos) << text;
  }
}

TEST_F(RunTest, RefusesBeforeItMakesAModel) {
  int models = 0;
  train::Task task = test::row_task();
  task.make_model = [&, make = task.make_model](nn::Init init) {
    ++models;
    return make(std::move(init));
  };
  EXPECT_THROW(reports::Run(task, {.rates = folder_ / "nowhere"}), DataError);
  EXPECT_THROW(reports::Run(task, {}, {.page = folder_ / "nowhere" / "page.html"}), Error);
  EXPECT_THROW(reports::Run(task, {}, {.page = folder_ / "one", .trace = folder_ / "one"}), ValueError);
  EXPECT_EQ(models, 0);
}

}  // namespace
}  // namespace palimpsest::reports
