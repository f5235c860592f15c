// The pictures of a step: the page's data, the snapshot for memory_viz and the trace, read back and added up.

#include "examples/harness/step_pictures.hpp"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <numeric>
#include <optional>
#include <utility>
#include <vector>

#include <palimpsest/memory/policies.hpp>
#include <palimpsest/nn/models/densenet.hpp>
#include <palimpsest/nn/models/revnet.hpp>
#include "examples/harness/command_line.hpp"
#include "examples/harness/dry_run.hpp"
#include "examples/harness/memory_snapshot.hpp"
#include "examples/harness/op_trace.hpp"
#include "examples/harness/plan_table.hpp"
#include "examples/harness/policy_forecasts.hpp"
#include "examples/harness/step_owners.hpp"
#include "examples/harness/training_step.hpp"

namespace palimpsest::harness {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr std::int64_t batch_size = 2;

MakeModel small_revnet() {
  return [](const DataFacts& data, nn::Init init) {
    nn::ResidualOptions spec = nn::RevNet::cifar(14);
    spec.image_channels = data.channels;
    return std::make_unique<nn::RevNet>(spec, std::move(init));
  };
}

struct Recorded {
  memory::StepTrace record;
  MemoryStats stats;  ///< the allocator's own, of that step
};

/// The second step of a small RevNet's training.
Recorded record_step(const std::string& policy) {
  Options options;
  options.data = "synthetic";
  const auto model = small_revnet()(data_facts("synthetic"), nn::Init(0, Device::Cpu));
  model->set_memory(memory::parse(policy));
  nn::Sgd sgd = make_sgd(*model, options, {});
  Recorded recorded;
  for (int step = 0; step < 2; ++step) {
    allocator(Device::Cpu).reset_peak();
    memory::StepRecorder log(Device::Cpu);
    train_step(*model, sgd,
               {Tensor::zeros({batch_size, 3, 32, 32}, Dtype::Float32, Device::Cpu, Tag::Data),
                Tensor::zeros({batch_size}, Dtype::Int32, Device::Cpu, Tag::Data)});
    recorded = {log.take(), allocator(Device::Cpu).stats()};
  }
  return recorded;
}

MemoryReport facts() {
  MemoryReport facts;
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

class PicturesUnder : public testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(Policies, PicturesUnder, testing::Values("store-all", "shared", "checkpoint", "reversible"),
                         [](const auto& info) {
                           std::string name = info.param;
                           std::erase(name, '-');
                           return name;
                         });

TEST_P(PicturesUnder, ThePagesSeriesReachTheAllocatorsPeakByTag) {
  const auto [record, stats] = record_step(GetParam());
  const Json data = memory_report_data(facts(), record);
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
      held += record.allocations[static_cast<std::size_t>(allocation)].bytes;
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

/// What a reader of the snapshot makes of it: the blocks that are active at the end, without those that the trace has
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
  EXPECT_NE(memory_report_html(MemoryReport(), nothing).find("</html>"), std::string::npos);
  EXPECT_EQ(Json::parse(memory_snapshot(nothing))["segments"].size(), 0U);
  EXPECT_FALSE(Json::parse(op_trace(nothing, ""))["traceEvents"].empty());
}

TEST(Pictures, ThePageKeepsItsDataInsideItsElement) {
  const std::string page = memory_report_html(facts(), record_step("store-all").record);
  const std::string opening = R"(<script type="application/json" id="data">)";
  const std::size_t begin = page.find(opening) + opening.size();
  const std::string embedded = page.substr(begin, page.find("</script>", begin) - begin);
  EXPECT_EQ(Json::parse(embedded)["facts"]["model"], "A </script> & co");
  EXPECT_EQ(Json::parse(embedded)["savings"][0]["change"], "something <b>cheap</b>");
  EXPECT_NE(page.find("<title>Memory of a step: A &lt;/script> &amp; co under reversible</title>"), std::string::npos);
  EXPECT_EQ(page.find('@'), page.find("@media")) << "a placeholder is left";
}

std::vector<PolicyForecast> forecasts_of(const MakeModel& make_model, const Options& options, Device device) {
  const MemoryChoice memory = choose_memory(make_model, options, {}, device);
  return policy_forecasts(make_model, memory, options, {}, device);
}

TEST(PolicyForecasts, AreThoseOfDryRuns) {
  Options options;
  options.data = "synthetic";
  options.batch_size = batch_size;
  const memory::StepTrace measured = record_step("store-all").record;
  const std::vector<PolicyForecast> forecasts = forecasts_of(small_revnet(), options, Device::Cpu);
  ASSERT_EQ(forecasts.size(), memory::names().size());
  for (const PolicyForecast& each : forecasts) {
    options.memory = each.policy;
    const MemoryPeak peak = dry_run(small_revnet(), options, {}).peak;
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
  Options options;
  options.data = "synthetic";
  options.batch_size = batch_size;
  double offload = 0;
  for (const std::string& rates : {std::string(), file.string()}) {
    options.rates = rates;
    std::map<std::string, double> planned;
    for (const PlanRow& row : plan_rows(small_revnet(), options, {}, Device::Cpu, std::nullopt))
      planned[row.policy] = row.forecast.seconds;
    for (const PolicyForecast& each : forecasts_of(small_revnet(), options, Device::Cpu)) {
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
  Tensor forward(const Tensor& images) override {
    ++runs_;
    return RevNet::forward(images);
  }

 private:
  int& runs_;
};

TEST(PolicyForecasts, OfABudgetAreNotPlannedAgain) {
  int runs = 0;
  const MakeModel make_model = [&](const DataFacts&, nn::Init init) {
    return std::make_unique<CountingRevNet>(nn::RevNet::cifar(14), std::move(init), runs);
  };
  Options options;
  options.data = "synthetic";
  options.batch_size = batch_size;
  options.memory = "budget=4MiB";
  const MemoryChoice memory = choose_memory(make_model, options, {}, Device::Cpu);
  ASSERT_TRUE(memory.planner.has_value());
  const int planning = std::exchange(runs, 0);
  const std::vector<PolicyForecast> forecasts = policy_forecasts(make_model, memory, options, {}, Device::Cpu);
  EXPECT_EQ(forecasts.back().policy, options.memory);
  EXPECT_EQ(forecasts.back().peak, dry_run(make_model, memory, options, {}).peak.total);
  const std::vector<Saving> savings = cheapest_savings(make_model, memory, options, {}, Device::Cpu);
  EXPECT_FALSE(savings.empty());
  EXPECT_LT(runs, planning / 2);
  MemoryChoice without = memory;
  without.planner.reset();
  const std::vector<Saving> planned_again = cheapest_savings(make_model, without, options, {}, Device::Cpu);
  ASSERT_EQ(savings.size(), planned_again.size());
  for (std::size_t i = 0; i < savings.size(); ++i) {
    EXPECT_EQ(savings[i].peak, planned_again[i].peak);
    EXPECT_EQ(savings[i].change, planned_again[i].change);
  }
}

TEST(PolicyForecasts, LeaveOutAPolicyWithoutWork) {
  const MakeModel densenet = [](const DataFacts& data, nn::Init init) {
    nn::DenseNetOptions spec = nn::DenseNetOptions::cifar(10, 4);
    spec.image_channels = data.channels;
    return std::make_unique<nn::DenseNet>(spec, std::move(init));
  };
  Options options;
  options.data = "synthetic";
  options.batch_size = batch_size;
  for (const Device device : {Device::Cpu, Device::Cuda}) {
    std::vector<std::string> policies;
    for (const PolicyForecast& each : forecasts_of(densenet, options, device)) {
      policies.push_back(each.policy);
      EXPECT_GT(each.time_factor, 0) << "every device has a table";
    }
    EXPECT_EQ(policies, (std::vector<std::string>{"store-all", "shared", "checkpoint", "offload"}));
  }
}

TEST(StepToRecord, IsTheFirstSteadyOneWithAWholeBatch) {
  EXPECT_EQ(step_to_record({.batch_size = 4, .steps_per_epoch = 4, .epochs = 1, .steps = 4}, 16), 1);
  EXPECT_EQ(step_to_record({.batch_size = 4, .steps_per_epoch = 2, .epochs = 2, .steps = 4}, 6), 2);
  EXPECT_EQ(step_to_record({.batch_size = 4, .steps_per_epoch = 2, .epochs = 1, .steps = 2}, 6), 0);
  EXPECT_EQ(step_to_record({.batch_size = 4, .steps_per_epoch = 1, .epochs = 3, .steps = 3}, 4), 1);
  EXPECT_EQ(step_to_record({.batch_size = 4, .steps_per_epoch = 4, .epochs = 1, .steps = 1}, 16), 0);
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
  Options options;
  EXPECT_FALSE(StepPictures(options));
  options.trace = folder / "trace.json";
  const StepPictures trace_alone(options);
  EXPECT_TRUE(trace_alone);
  EXPECT_TRUE(trace_alone.write(record, "title", count).empty());
  EXPECT_EQ(asked, 0) << "only the page needs facts";
  EXPECT_EQ(std::distance(fs::directory_iterator(folder), {}), 1);
  options.memory_report = folder / "page.html";
  options.memory_snapshot = folder / "snapshot.json";
  EXPECT_TRUE(StepPictures(options).write(record, "title", count).empty());
  EXPECT_EQ(asked, 1);
  EXPECT_EQ(std::distance(fs::directory_iterator(folder), {}), 3);
  options.memory_snapshot = folder / "trace.json";
  EXPECT_THROW(StepPictures{options}, UsageError);
  options.memory_snapshot = folder / "nowhere" / "snapshot.json";
  EXPECT_THROW(StepPictures{options}, Error);
  fs::remove_all(folder);
}

TEST(StepPictures, ThatFailAreNamedAndTheOthersWritten) {
  const fs::path folder = fs::temp_directory_path() / ("palimpsest_failing_" + std::to_string(getpid()));
  fs::create_directories(folder / "gone");
  Options options;
  options.memory_snapshot = folder / "gone" / "snapshot.json";
  options.trace = folder / "trace.json";
  options.memory_report = folder / "page.html";
  const StepPictures pictures(options);
  fs::remove(folder / "gone");
  const auto no_facts = []() -> MemoryReport { throw Error("no facts today"); };
  const std::vector<std::string> failures = pictures.write(record_step("shared").record, "title", no_facts);
  ASSERT_EQ(failures.size(), 2U);
  EXPECT_NE(failures[0].find(options.memory_snapshot + ": No such file"), std::string::npos) << failures[0];
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
  Options options;
  options.report = folder / "inner" / "a.json";
  const std::string relative = fs::relative(options.report);
  const auto refuses = [&](const std::string& other) {
    options.trace = other;
    EXPECT_THROW(StepPictures{options}, UsageError) << other;
  };
  for (const bool exists : {false, true}) {
    if (exists) std::ofstream(options.report) << "{}";
    refuses(folder / "inner" / "a.json");
    refuses(folder / "inner" / "." / "a.json");
    refuses(folder / "inner" / ".." / "inner" / "a.json");
    refuses(folder / "link_to_inner" / "a.json");
    refuses(folder / "one");
    refuses(folder / "two");
    refuses(relative);
    refuses("./" + relative);
  }
  options.report = folder / "one";
  refuses(folder / "two");
  options.trace = folder / "inner" / "b.json";
  EXPECT_TRUE(StepPictures(options));
  fs::remove_all(folder);
}

}  // namespace
}  // namespace palimpsest::harness
