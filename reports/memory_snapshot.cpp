#include <palimpsest/reports/memory_snapshot.hpp>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include <palimpsest/reports/step_owners.hpp>

namespace palimpsest::reports {
namespace {

using Json = nlohmann::ordered_json;
using memory::StepTrace;

constexpr std::uintptr_t segment_alignment = std::uintptr_t{2} << 20;

std::uintptr_t rounded_up(std::uintptr_t bytes, std::uintptr_t multiple) {
  return (bytes + multiple - 1) / multiple * multiple;
}

/// The bytes that an allocation takes of its segment.
std::size_t size_taken(std::size_t bytes) {
  return rounded_up(std::max<std::size_t>(bytes, 1), CachingAllocator::alignment);
}

Json frame(const std::string& file, int line, const std::string& name) {
  return {{"filename", file}, {"line", line}, {"name", name}};
}

/// Innermost first, as PyTorch has them.
Json frames_of(const StepTrace& record, int run, const std::string& content) {
  if (run < 0) return Json::array({frame(content, run, "between ops"), frame(block_label(""), run, "step")});
  const StepTrace::Run& during = record.run(run);
  return Json::array({frame(content, run, during.name), frame(block_label(during.block), run, during.name),
                      frame("step", run, std::string(to_string(during.kind)))});
}

std::string moved_by(const StepTrace& record, const StepTrace::Event& event) {
  return event.allocation >= 0 ? content_of(record, event.allocation) : std::string(to_string(event.tag));
}

Json trace_of(const StepTrace& record) {
  Json trace = Json::array();
  const auto add = [&](const char* action, const StepTrace::Event& event) {
    trace.push_back({{"action", action},
                     {"addr", event.address},
                     {"size", event.bytes},
                     {"stream", 0},
                     {"time_us", static_cast<std::int64_t>(event.at_us)},
                     {"category", to_string(event.tag)},
                     {"frames", frames_of(record, event.run, moved_by(record, event))}});
  };
  // The page needs the category "unknown" to be named once: it gives it to what has none.
  trace.push_back({{"action", "snapshot"},
                   {"addr", 0},
                   {"size", 0},
                   {"stream", 0},
                   {"time_us", 0},
                   {"category", "unknown"},
                   {"frames", Json::array()}});
  for (const StepTrace::Event& event : record.events) {
    if (event.allocates) {
      add("alloc", event);
    } else {
      add("free_requested", event);
      add("free_completed", event);
    }
  }
  return trace;
}

struct Range {
  std::uintptr_t begin;
  std::uintptr_t end;
};

/// The stretches of addresses that the step has used, in order.
std::vector<Range> ranges_of(const StepTrace& record) {
  std::vector<Range> used;
  for (const StepTrace::Event& event : record.events) {
    used.push_back({event.address, event.address + size_taken(event.bytes)});
  }
  std::sort(used.begin(), used.end(), [](const Range& a, const Range& b) { return a.begin < b.begin; });
  std::vector<Range> joined;
  for (const Range& range : used) {
    if (!joined.empty() && range.begin <= joined.back().end) {
      joined.back().end = std::max(joined.back().end, range.end);
    } else {
      joined.push_back(range);
    }
  }
  return joined;
}

/// The blocks of a segment, one behind the other.
class Segment {
 public:
  explicit Segment(std::uintptr_t address) : address_(address), end_(address) {}

  void add(std::size_t size, std::size_t asked, const char* state, Json frames) {
    blocks_.push_back({{"address", end_},
                       {"size", size},
                       {"requested_size", asked},
                       {"state", state},
                       {"frames", std::move(frames)}});
    end_ += size;
  }
  void add_free(std::uintptr_t up_to) {
    if (up_to > end_) add(up_to - end_, 0, "inactive", Json::array());
  }
  void add_live(std::size_t bytes, Json frames) {
    add(size_taken(bytes), bytes, "active_allocated", std::move(frames));
    active_ += size_taken(bytes);
    asked_ += bytes;
  }

  std::uintptr_t end() const { return end_; }
  Json json() const {
    return {{"device", 0},
            {"address", address_},
            {"total_size", end_ - address_},
            {"allocated_size", active_},
            {"active_size", active_},
            {"requested_size", asked_},
            {"stream", 0},
            {"segment_type", "large"},
            {"segment_pool_id", Json::array({0, 0})},
            {"is_expandable", false},
            {"frames", Json::array()},
            {"blocks", blocks_}};
  }

 private:
  std::uintptr_t address_;
  std::uintptr_t end_;
  std::size_t active_ = 0;
  std::size_t asked_ = 0;
  Json blocks_ = Json::array();
};

/// The allocations that the step has left, by address.
std::map<std::uintptr_t, const StepTrace::Event*> left_by(const StepTrace& record) {
  std::map<std::uintptr_t, const StepTrace::Event*> left;
  for (const StepTrace::Event& event : record.events) {
    if (event.allocates) {
      left[event.address] = &event;
    } else {
      left.erase(event.address);
    }
  }
  return left;
}

Segment segment_of(const StepTrace& record, const Range& range,
                   const std::map<std::uintptr_t, const StepTrace::Event*>& left) {
  Segment segment(range.begin);
  for (auto each = left.lower_bound(range.begin); each != left.end() && each->first < range.end; ++each) {
    const StepTrace::Event& event = *each->second;
    segment.add_free(event.address);
    segment.add_live(event.bytes, frames_of(record, event.run, moved_by(record, event)));
  }
  segment.add_free(range.end);
  return segment;
}

Json segments_of(const StepTrace& record) {
  Json segments = Json::array();
  std::uintptr_t end = 0;
  const auto left = left_by(record);
  for (const Range& range : ranges_of(record)) {
    segments.push_back(segment_of(record, range, left).json());
    end = range.end;
  }
  Segment older(rounded_up(end + 1, segment_alignment));
  const TagBytes bytes = record.older_after(record.events.size());
  for (std::size_t tag = 0; tag < bytes.size(); ++tag) {
    if (bytes[tag] == 0) continue;
    const std::string name(to_string(static_cast<Tag>(tag)));
    older.add_live(bytes[tag], Json::array({frame("before the step", -1, name)}));
  }
  if (older.end() > rounded_up(end + 1, segment_alignment)) segments.push_back(older.json());
  return segments;
}

}  // namespace

std::string memory_snapshot(const StepTrace& record) {
  return Json{{"segments", segments_of(record)}, {"device_traces", Json::array({trace_of(record)})}}.dump() + "\n";
}

}  // namespace palimpsest::reports
