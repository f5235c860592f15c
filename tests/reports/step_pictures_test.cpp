// The pictures of a step: the page's data, the snapshot for memory_viz and the trace, read back and added up.

#include <palimpsest/reports/step_pictures.hpp>

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <numeric>
#include <optional>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include <palimpsest/memory/request.hpp>
#include <palimpsest/reports/memory_snapshot.hpp>
#include <palimpsest/reports/op_trace.hpp>
#include <palimpsest/reports/plan_table.hpp>
#include <palimpsest/reports/policy_forecasts.hpp>
#include <palimpsest/reports/step_owners.hpp>
#include <palimpsest/train/rehearsal.hpp>
#include "tests/train/small_tasks.hpp"

namespace palimpsest::reports {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;
using test::small_densenet;
using test::small_revnet;

constexpr std::int64_t batch_size = 2;

struct Recorded {
  memory::StepTrace record;
  MemoryStats stats;  ///< the allocator's own, of that step
};

/// The second step of a small RevNet's training.
Recorded record_step(const std::string& policy) {
  const train::Task task = small_revnet();
  train::Training training(task, nn::Init(0, Device::Cpu));
  training.model().set_memory(memory::parse(policy).policy());
  Recorded recorded;
  for (int step = 0; step < 2; ++step) {
    allocator(Device::Cpu).reset_peak();
    memory::StepRecorder log(Device::Cpu);
    training.step(std::vector<Tensor>{Tensor::zeros({batch_size, 3, 32, 32}, Dtype::Float32, Device::Cpu, Tag::Data),
                                      Tensor::zeros({batch_size}, Dtype::Int32, Device::Cpu, Tag::Data)});
    recorded = {log.take(), allocator(Device::Cpu).stats()};
  }
  return recorded;
}

PageFacts facts() {
  PageFacts facts;
  facts.model = "A </script> & co";
  facts.policy = "reversible";
  facts.savings = {{0.1, 1000, 1.25, "something <b>cheap</b>"}};
  return facts;
}

/// The live bytes by tag after `event`, from the page's data alone, as the page's script finds them.
TagBytes bytes_after(const Json& data, std::size_t event) {
  auto live = data["live_before"].get<TagBytes>();
  std::vector<bool> seen(data["allocations"].size());
  for (std::size_t i = 0; i <= event; ++i) {
    const Json& what = data["events"]["what"][i];
    if (what.is_array()) {
      live[what[0].get<std::size_t>()] -= what[1].get<std::size_t>();
      continue;
    }
    const auto number = what.get<std::size_t>();
    const Json& allocation = data["allocations"][number];
    const auto bytes = allocation[1].get<std::size_t>();
    live[allocation[0].get<std::size_t>()] += seen[number] ? std::size_t{0} - bytes : bytes;
    seen[number] = true;
  }
  return live;
}

/// A step of two micro-batches.
memory::StepTrace record_two_backwards() {
  const train::Task task = small_revnet();
  train::Training training(task, nn::Init(0, Device::Cpu));
  const std::vector<Tensor> batch = {Tensor::zeros({batch_size, 3, 32, 32}, Dtype::Float32, Device::Cpu, Tag::Data),
                                     Tensor::zeros({batch_size}, Dtype::Int32, Device::Cpu, Tag::Data)};
  memory::StepRecorder log(Device::Cpu);
  for (int i = 0; i < 2; ++i) training.loss(batch).backward();
  training.optimiser().step();
  return log.take();
}

TEST(Pictures, EveryBackwardIsShadedAndNoForward) {
  const memory::StepTrace record = record_two_backwards();
  const Json data = Json::parse(memory_page_data(facts(), record));
  ASSERT_EQ(data["backwards"].size(), 2U);
  const auto shaded = [&](std::size_t event) {
    return std::any_of(data["backwards"].begin(), data["backwards"].end(), [&](const Json& each) {
      return each[0].get<std::size_t>() <= event && event < each[1].get<std::size_t>();
    });
  };
  for (std::size_t i = 0; i < record.events.size(); ++i) {
    if (record.events[i].run < 0) continue;
    EXPECT_EQ(shaded(i), record.run(record.events[i].run).kind != RunKind::Forward) << "event " << i;
  }

  std::vector<std::string> phases;
  double end = 0;
  const Json trace = Json::parse(op_trace(record, "two"));
  for (const Json& event : trace["traceEvents"]) {
    if (event.value("cat", "") != "phase") continue;
    phases.push_back(event["name"]);
    EXPECT_NEAR(event["ts"], end, 1e-3) << "no gap";
    end = event["ts"].get<double>() + event["dur"].get<double>();
  }
  const std::string back = "backward and update";
  EXPECT_EQ(phases, (std::vector<std::string>{"forward", back, "forward", back}));
}

class PicturesUnder : public testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(Policies, PicturesUnder, testing::Values("store-all", "shared", "checkpoint", "reversible"),
                         [](const auto& info) {
                           std::string name = info.param;
                           std::erase(name, '-');
                           return name;
                         });

TEST_P(PicturesUnder, ThePagesSeriesReachTheAllocatorsPeakByTag) {
  const auto [record, stats] = record_step(GetParam());
  const Json data = Json::parse(memory_page_data(facts(), record));
  EXPECT_EQ(data["peak"]["bytes"], stats.peak);
  EXPECT_EQ(data["peak"]["by_tag"].get<TagBytes>(), stats.peak_by_tag);
  EXPECT_EQ(bytes_after(data, data["peak"]["event"]), stats.peak_by_tag);
  EXPECT_EQ(bytes_after(data, record.events.size() - 1), stats.live_by_tag);
}

TEST_P(PicturesUnder, OwnersAddUpToThePeak) {
  const auto [record, stats] = record_step(GetParam());
  std::size_t owned = 0;
  std::size_t older = 0;
  std::size_t last = SIZE_MAX;
  for (const Owned& each : owners_after(record, record.peak().event)) {
    owned += each.bytes;
    EXPECT_LE(each.bytes, last) << "largest first";
    last = each.bytes;
    std::size_t held = 0;
    for (const int allocation : each.allocations) {
      held += record.allocation(allocation).bytes;
      EXPECT_EQ(owner_of(record, allocation), each.owner);
    }
    if (each.owner.block == "before the step") {
      older += each.bytes;
      EXPECT_EQ(held, 0U);
    } else {
      EXPECT_EQ(held, each.bytes);
    }
  }
  EXPECT_EQ(owned, stats.peak);
  const TagBytes by_tag = record.older_after(record.peak().event);
  EXPECT_EQ(older, std::accumulate(by_tag.begin(), by_tag.end(), std::size_t{0}));
  EXPECT_GT(older, 0U) << "parameters are older than any step";
}

/// A reader of the snapshot finds this: the blocks that are active at the end, without those that the trace has
/// allocated and with those that it has released, were there at the beginning.
TEST_P(PicturesUnder, TheSnapshotReplayedHasTheSamePeak) {
  const auto [record, stats] = record_step(GetParam());
  const Json snapshot = Json::parse(memory_snapshot(record));
  const Json& trace = snapshot["device_traces"][0];
  std::map<std::uint64_t, std::size_t> live;
  std::size_t at_end = 0;
  for (const Json& segment : snapshot["segments"]) {
    std::uint64_t next = segment["address"];
    for (const Json& block : segment["blocks"]) {
      EXPECT_EQ(block["address"], next) << "blocks follow one another";
      EXPECT_LE(block["requested_size"], block["size"]);
      next += block["size"].get<std::size_t>();
      if (block["state"] != "active_allocated") continue;
      live[block["address"]] = block["requested_size"];
      at_end += block["requested_size"].get<std::size_t>();
    }
    EXPECT_EQ(next, segment["address"].get<std::uint64_t>() + segment["total_size"].get<std::uint64_t>());
  }
  EXPECT_EQ(at_end, stats.live);
  std::size_t bytes = at_end;
  std::size_t peak = at_end;
  for (auto event = trace.rbegin(); event != trace.rend(); ++event) {
    const std::uint64_t address = (*event)["addr"];
    const auto size = (*event)["size"].get<std::size_t>();
    if ((*event)["action"] == "alloc") {
      ASSERT_EQ(live.count(address), 1U);
      EXPECT_EQ(live[address], size);
      live.erase(address);
      bytes -= size;
    } else if ((*event)["action"] == "free_completed") {
      EXPECT_TRUE(live.emplace(address, size).second) << "two at one address";
      bytes += size;
      peak = std::max(peak, bytes);
    }
  }
  EXPECT_EQ(peak, stats.peak);
  EXPECT_EQ(bytes, record.live_before);
}

TEST_P(PicturesUnder, ReleasesOfTheSnapshotComeInPairsInsideASegment) {
  const Json snapshot = Json::parse(memory_snapshot(record_step(GetParam()).record));
  const Json& trace = snapshot["device_traces"][0];
  const auto inside = [&](std::uint64_t begin, std::uint64_t size) {
    for (const Json& segment : snapshot["segments"]) {
      const std::uint64_t from = segment["address"];
      if (begin >= from && begin + size <= from + segment["total_size"].get<std::uint64_t>()) return true;
    }
    return false;
  };
  ASSERT_EQ(trace[0]["action"], "snapshot");
  EXPECT_EQ(trace[0]["category"], "unknown");
  for (std::size_t i = 1; i < trace.size(); ++i) {
    EXPECT_TRUE(inside(trace[i]["addr"], trace[i]["size"]));
    if (trace[i]["action"] == "free_requested") {
      ASSERT_LT(i + 1, trace.size());
      EXPECT_EQ(trace[i + 1]["action"], "free_completed");
      EXPECT_EQ(trace[i + 1]["addr"], trace[i]["addr"]);
    }
    ASSERT_FALSE(trace[i]["frames"].empty());
    for (const Json& frame : trace[i]["frames"]) {
      EXPECT_TRUE(frame["filename"].is_string() && frame["line"].is_number_integer() && frame["name"].is_string());
    }
  }
}

TEST(Pictures, FramesOfTheSnapshotNameBlockOpAndPhase) {
  const Json snapshot = Json::parse(memory_snapshot(record_step("reversible").record));
  std::map<std::string, int> phases;
  int in_units = 0;
  for (const Json& event : snapshot["device_traces"][0]) {
    if (event["frames"].size() != 3) continue;
    ++phases[event["frames"][2]["name"]];
    const std::string block = event["frames"][1]["filename"];
    if (block.starts_with("stage") && event["frames"][1]["name"] == "couple") ++in_units;
  }
  EXPECT_GT(phases["forward"], 0);
  EXPECT_GT(phases["backward"], 0);
  EXPECT_GT(phases["replay"] + phases["solve"], 0);
  EXPECT_GT(in_units, 0);
}

TEST_P(PicturesUnder, DurationsOfTheTraceNestAndItsCountersPeak) {
  const auto [record, stats] = record_step(GetParam());
  const Json trace = Json::parse(op_trace(record, "title"));
  std::vector<double> open;  // ends of the runs around this one
  std::size_t runs = 0;
  std::size_t peak = 0;
  std::size_t mark = 0;
  double operations = 0;
  constexpr double rounding = 2e-3;
  for (const Json& event : trace["traceEvents"]) {
    const std::string phase = event["ph"];
    if (phase == "C" && event["name"] == "live") peak = std::max(peak, event["args"]["bytes"].get<std::size_t>());
    if (phase == "i") mark = event["args"]["bytes"];
    if (phase != "X" || event["cat"] == "phase") continue;
    ++runs;
    operations += event["args"]["operations"].get<double>();
    const double begin = event["ts"];
    const double end = begin + event["dur"].get<double>();
    while (!open.empty() && open.back() <= begin + rounding) open.pop_back();
    if (!open.empty()) {
      EXPECT_LE(end, open.back() + rounding);
    }
    open.push_back(end);
  }
  EXPECT_EQ(runs, record.runs.size());
  EXPECT_EQ(peak, stats.peak);
  EXPECT_EQ(mark, stats.peak);
  EXPECT_NEAR(operations, record.work().operations, static_cast<double>(runs));
}

TEST(Pictures, AreWholeForAnEmptyRecord) {
  const memory::StepTrace nothing;
  EXPECT_NE(memory_page(PageFacts(), nothing).find("</html>"), std::string::npos);
  EXPECT_EQ(Json::parse(memory_snapshot(nothing))["segments"].size(), 0U);
  EXPECT_FALSE(Json::parse(op_trace(nothing, ""))["traceEvents"].empty());
}

TEST(Pictures, ThePageKeepsItsDataInsideItsElement) {
  const std::string page = memory_page(facts(), record_step("store-all").record);
  const std::string opening = R"(<script type="application/json" id="data">)";
  const std::size_t begin = page.find(opening) + opening.size();
  const std::string embedded = page.substr(begin, page.find("</script>", begin) - begin);
  EXPECT_EQ(Json::parse(embedded)["facts"]["model"], "A </script> & co");
  EXPECT_EQ(Json::parse(embedded)["savings"][0]["change"], "something <b>cheap</b>");
  EXPECT_NE(page.find("<title>Memory of a step: A &lt;/script> &amp; co under reversible</title>"), std::string::npos);
  EXPECT_EQ(page.find('@'), page.find("@media")) << "a placeholder is left";
}

TEST(StepPictures, WriteWhatIsAskedForAndNothingElse) {
  const fs::path folder = fs::temp_directory_path() / ("palimpsest_pictures_" + std::to_string(getpid()));
  fs::create_directories(folder);
  const memory::StepTrace record = record_step("shared").record;
  int asked = 0;
  const auto count = [&] {
    ++asked;
    return facts();
  };
  Files files;
  EXPECT_FALSE(StepPictures(files));
  files.trace = folder / "trace.json";
  const StepPictures trace_alone(files);
  EXPECT_TRUE(trace_alone);
  EXPECT_TRUE(trace_alone.write(record, "title", count).empty());
  EXPECT_EQ(asked, 0) << "only the page needs facts";
  EXPECT_EQ(std::distance(fs::directory_iterator(folder), {}), 1);
  files.page = folder / "page.html";
  files.snapshot = folder / "snapshot.json";
  EXPECT_TRUE(StepPictures(files).write(record, "title", count).empty());
  EXPECT_EQ(asked, 1);
  EXPECT_EQ(std::distance(fs::directory_iterator(folder), {}), 3);
  files.snapshot = folder / "trace.json";
  EXPECT_THROW(StepPictures{files}, ValueError);
  files.snapshot = folder / "nowhere" / "snapshot.json";
  EXPECT_THROW(StepPictures{files}, Error);
  fs::remove_all(folder);
}

TEST(StepPictures, ThatFailAreNamedAndTheOthersWritten) {
  const fs::path folder = fs::temp_directory_path() / ("palimpsest_failing_" + std::to_string(getpid()));
  fs::create_directories(folder / "gone");
  Files files;
  files.snapshot = folder / "gone" / "snapshot.json";
  files.trace = folder / "trace.json";
  files.page = folder / "page.html";
  const StepPictures pictures(files);
  fs::remove(folder / "gone");
  const auto no_facts = []() -> PageFacts { throw Error("no facts today"); };
  const std::vector<std::string> failures = pictures.write(record_step("shared").record, "title", no_facts);
  ASSERT_EQ(failures.size(), 2U);
  EXPECT_NE(failures[0].find(files.snapshot + ": No such file"), std::string::npos) << failures[0];
  EXPECT_EQ(failures[1], "no facts today");
  EXPECT_EQ(std::distance(fs::directory_iterator(folder), {}), 1) << "the trace alone";
  fs::remove_all(folder);
}

TEST(StepPictures, AreNotWrittenToOneFileByTwoNames) {
  const fs::path folder = fs::temp_directory_path() / ("palimpsest_names_" + std::to_string(getpid()));
  fs::create_directories(folder / "inner");
  fs::create_symlink("inner", folder / "link_to_inner");
  fs::create_symlink("inner/a.json", folder / "one");  // to a file that is not there yet
  fs::create_symlink(folder / "one", folder / "two");
  Files files;
  files.report = folder / "inner" / "a.json";
  const std::string relative = fs::relative(files.report);
  const auto refuses = [&](const std::string& other) {
    files.trace = other;
    EXPECT_THROW(StepPictures{files}, ValueError) << other;
  };
  for (const bool exists : {false, true}) {
    if (exists) std::ofstream(files.report) << "{}";
    refuses(folder / "inner" / "a.json");
    refuses(folder / "inner" / "." / "a.json");
    refuses(folder / "inner" / ".." / "inner" / "a.json");
    refuses(folder / "link_to_inner" / "a.json");
    refuses(folder / "one");
    refuses(folder / "two");
    refuses(relative);
    refuses("./" + relative);
  }
  files.report = folder / "one";
  refuses(folder / "two");
  files.trace = folder / "inner" / "b.json";
  EXPECT_TRUE(StepPictures(files));
  fs::remove_all(folder);
}

}  // namespace
}  // namespace palimpsest::reports
