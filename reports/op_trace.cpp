#include <palimpsest/reports/op_trace.hpp>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <sstream>
#include <utility>
#include <vector>

#include <palimpsest/reports/step_owners.hpp>

namespace palimpsest::reports {
namespace {

using Json = nlohmann::ordered_json;
using memory::StepTrace;

// Tracks: threads of one process, in this order.
constexpr int phases_track = 1;
constexpr int ops_track = 2;

/// Nanoseconds are what the clock has; more digits would only be length.
double microseconds(double time) { return std::round(time * 1000) / 1000; }

Json event(const char* phase, const std::string& name, double at_us, int track) {
  return {{"ph", phase}, {"name", name}, {"ts", microseconds(at_us)}, {"pid", 1}, {"tid", track}};
}

Json complete(const std::string& name, const std::string& category, double begin_us, double end_us, int track) {
  Json made = event("X", name, begin_us, track);
  made["dur"] = std::max(0.0, microseconds(microseconds(end_us) - microseconds(begin_us)));
  made["cat"] = category;
  return made;
}

Json named(const char* what, const std::string& name, int track) {
  return {{"ph", "M"}, {"name", what}, {"pid", 1}, {"tid", track}, {"args", {{"name", name}}}};
}

Json shapes(const StepTrace& record, const std::vector<int>& values) {
  Json made = Json::array();
  for (const int number : values) {
    const StepTrace::Value& value = record.value(number);
    std::ostringstream text;
    text << value.shape << ' ' << value.dtype;
    made.push_back(text.str());
  }
  return made;
}

Json run_event(const StepTrace& record, const StepTrace::Run& run) {
  Json made = complete(run.name, std::string(to_string(run.kind)), run.begin_us, run.end_us, ops_track);
  Json args = {{"block", block_label(run.block)},
               {"phase", to_string(run.kind)},
               {"operations", static_cast<std::int64_t>(run.work.operations)},
               {"bytes", static_cast<std::int64_t>(run.work.bytes)}};
  const StepTrace::Op& op = record.op(run.op);
  args["inputs"] = shapes(record, op.inputs);
  args["outputs"] = shapes(record, op.outputs);
  made["args"] = std::move(args);
  return made;
}

Json counter(const std::string& name, double at_us, std::size_t bytes) {
  Json made = event("C", name, at_us, 0);
  made["args"] = {{"bytes", bytes}};
  return made;
}

void add_counters(Json& events, const StepTrace& record) {
  TagBytes by_tag = record.live_before_by_tag;
  std::size_t live = record.live_before;
  const auto name = [](std::size_t tag) { return "live " + std::string(to_string(static_cast<Tag>(tag))); };
  for (std::size_t tag = 0; tag < by_tag.size(); ++tag) events.push_back(counter(name(tag), 0, by_tag[tag]));
  events.push_back(counter("live", 0, live));
  for (const StepTrace::Event& each : record.events) {
    const auto tag = static_cast<std::size_t>(each.tag);
    by_tag[tag] += each.allocates ? each.bytes : std::size_t{0} - each.bytes;
    live += each.allocates ? each.bytes : std::size_t{0} - each.bytes;
    events.push_back(counter(name(tag), each.at_us, by_tag[tag]));
    events.push_back(counter("live", each.at_us, live));
  }
}

double end_of(const StepTrace& record) {
  double end = record.events.empty() ? 0 : record.events.back().at_us;
  for (const StepTrace::Run& run : record.runs) end = std::max(end, run.end_us);
  return end;
}

void add_phases(Json& events, const StepTrace& record) {
  const double end = end_of(record);
  const auto begin_of = [&](std::size_t run) { return run < record.runs.size() ? record.runs[run].begin_us : end; };
  const auto add = [&](const char* name, double from, double to) {
    if (from < to) events.push_back(complete(name, "phase", from, to, phases_track));
  };
  double forward = 0;
  for (const StepTrace::Backward& each : record.backwards) {
    add("forward", forward, begin_of(each.runs.begin));
    forward = begin_of(each.runs.end);
    add("backward and update", begin_of(each.runs.begin), forward);
  }
  add("forward", forward, end);
}

Json peak_mark(const StepTrace& record) {
  const StepTrace::Peak peak = record.peak();
  Json mark = event("i", "peak", record.events.empty() ? 0 : record.events[peak.event].at_us, ops_track);
  mark["s"] = "p";
  mark["args"] = {{"bytes", peak.bytes}};
  return mark;
}

}  // namespace

std::string op_trace(const StepTrace& record, const std::string& title) {
  Json events = Json::array();
  events.push_back(named("process_name", title, 0));
  events.push_back(named("thread_name", "phases", phases_track));
  events.push_back(named("thread_name", "ops", ops_track));
  add_phases(events, record);
  for (const StepTrace::Run& run : record.runs) events.push_back(run_event(record, run));
  events.push_back(peak_mark(record));
  add_counters(events, record);
  return Json{{"displayTimeUnit", "ms"}, {"traceEvents", std::move(events)}}.dump() + "\n";
}

}  // namespace palimpsest::reports
