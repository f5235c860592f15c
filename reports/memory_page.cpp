#include <palimpsest/reports/memory_page.hpp>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string_view>
#include <unordered_map>
#include <utility>

#include <palimpsest/core/error.hpp>
#include <palimpsest/reports/html_page.hpp>
#include <palimpsest/reports/step_owners.hpp>

namespace palimpsest::reports {

/// page/memory_page.html with its style sheet and scripts, put together by page/embed.py in the build.
extern const std::string_view memory_page_template;

namespace {

using Json = nlohmann::ordered_json;
using memory::StepTrace;

/// Each text once.
class Strings {
 public:
  std::size_t operator()(std::string text) {
    const auto [entry, is_new] = numbers_.try_emplace(std::move(text), list_.size());
    if (is_new) list_.push_back(entry->first);
    return entry->second;
  }
  const Json& list() const { return list_; }

 private:
  std::unordered_map<std::string, std::size_t> numbers_;
  Json list_ = Json::array();
};

std::int64_t whole(double number) { return std::llround(number); }

Json names_of_tags() {
  Json names = Json::array();
  for (int tag = 0; tag < tag_count; ++tag) names.push_back(to_string(static_cast<Tag>(tag)));
  return names;
}

Json names_of_kinds() {
  Json names = Json::array();
  for (const RunKind kind : {RunKind::Forward, RunKind::Replay, RunKind::Solve, RunKind::Fetch, RunKind::Backward}) {
    names.push_back(to_string(kind));
  }
  return names;
}

Json facts_of(const PageFacts& facts) {
  return {{"model", facts.model},           {"policy", facts.policy},
          {"device", facts.device},         {"data", facts.data},
          {"batch_size", facts.batch_size}, {"step", facts.step},
          {"parameters", facts.parameters}, {"predicted_peak", facts.predicted_peak},
          {"reserved", facts.reserved}};
}

/// name, block, values that it reads.
Json ops_of(const StepTrace& record, Strings& strings) {
  Json rows = Json::array();
  for (const StepTrace::Op& op : record.ops) {
    rows.push_back({strings(op.name), strings(block_label(op.block)), op.inputs});
  }
  return rows;
}

/// op, output, "shape dtype", recipe, ops whose backward reads it, the coupling that can be solved for it.
Json values_of(const StepTrace& record, Strings& strings) {
  Json rows = Json::array();
  for (const StepTrace::Value& value : record.values) {
    std::ostringstream form;
    form << value.shape << ' ' << value.dtype;
    rows.push_back(
        {value.op, value.output, strings(form.str()), strings(value.recipe), value.read_by, value.solvable_from});
  }
  return rows;
}

/// op, name, block, kind, begin and duration in microseconds, operations, bytes, first event.
Json runs_of(const StepTrace& record, Strings& strings) {
  Json rows = Json::array();
  for (const StepTrace::Run& run : record.runs) {
    rows.push_back({run.op, strings(run.name), strings(block_label(run.block)), static_cast<int>(run.kind),
                    whole(run.begin_us), whole(run.end_us) - whole(run.begin_us), whole(run.work.operations),
                    whole(run.work.bytes), run.first_event});
  }
  return rows;
}

/// tag, bytes, value, whether it is its gradient, run, owner's op, owner's block.
Json allocations_of(const StepTrace& record, Strings& strings) {
  Json rows = Json::array();
  for (std::size_t i = 0; i < record.allocations.size(); ++i) {
    const StepTrace::Allocation& each = record.allocations[i];
    const Owner owner = owner_of(record, static_cast<int>(i));
    rows.push_back({static_cast<int>(each.tag), each.bytes, each.value, each.gradient ? 1 : 0, each.run,
                    strings(owner.op), strings(owner.block)});
  }
  return rows;
}

Json events_of(const StepTrace& record) {
  Json what = Json::array();
  Json runs = Json::array();
  Json times = Json::array();
  for (const StepTrace::Event& event : record.events) {
    if (event.allocation >= 0) {
      what.push_back(event.allocation);
    } else {
      what.push_back({static_cast<int>(event.tag), event.bytes});
    }
    runs.push_back(event.run);
    times.push_back(whole(event.at_us));
  }
  return {{"what", std::move(what)}, {"run", std::move(runs)}, {"at", std::move(times)}};
}

/// block, op, bytes, allocations.
Json owners_of(const StepTrace& record, std::size_t event, Strings& strings) {
  Json rows = Json::array();
  for (const Owned& owned : owners_after(record, event)) {
    rows.push_back({strings(owned.owner.block), strings(owned.owner.op), owned.bytes, owned.allocations});
  }
  return rows;
}

/// first event, first event behind it, first run.
Json backwards_of(const StepTrace& record) {
  Json rows = Json::array();
  for (const StepTrace::Backward& each : record.backwards) {
    rows.push_back({each.events.begin, each.events.end, each.runs.begin});
  }
  return rows;
}

Json policies_of(const std::vector<PolicyForecast>& policies) {
  Json rows = Json::array();
  for (const PolicyForecast& each : policies) {
    rows.push_back({{"policy", each.policy},
                    {"peak", each.peak},
                    {"by_tag", each.by_tag},
                    {"operations", whole(each.operations)},
                    {"time_factor", each.time_factor}});
  }
  return rows;
}

Json savings_of(const std::vector<Saving>& savings) {
  Json rows = Json::array();
  for (const Saving& each : savings) {
    rows.push_back(
        {{"fraction", each.fraction}, {"peak", each.peak}, {"time_factor", each.time_factor}, {"change", each.change}});
  }
  return rows;
}

}  // namespace

std::string memory_page_data(const PageFacts& facts, const StepTrace& record) {
  Strings strings;
  const StepTrace::Peak peak = record.peak();
  Json data = {{"facts", facts_of(facts)},
               {"tags", names_of_tags()},
               {"kinds", names_of_kinds()},
               {"live_before", record.live_before_by_tag},
               {"peak", {{"event", peak.event}, {"bytes", peak.bytes}, {"by_tag", peak.by_tag}}},
               {"backwards", backwards_of(record)},
               {"ops", ops_of(record, strings)},
               {"values", values_of(record, strings)},
               {"runs", runs_of(record, strings)},
               {"allocations", allocations_of(record, strings)},
               {"events", events_of(record)},
               {"owners", owners_of(record, peak.event, strings)},
               {"policies", policies_of(facts.policies)},
               {"savings", savings_of(facts.savings)}};
  data["strings"] = strings.list();
  return data.dump();
}

std::string memory_page(const PageFacts& facts, const StepTrace& record) {
  const std::string title = concat_text("Memory of a step: ", facts.model, " under ", facts.policy);
  return html_page(memory_page_template, title, memory_page_data(facts, record));
}

}  // namespace palimpsest::reports
