#include <palimpsest/memory/planner/step_trace.hpp>

#include <algorithm>
#include <new>
#include <utility>

#include <palimpsest/autograd/value.hpp>

namespace palimpsest::memory {

StepTrace::Peak StepTrace::peak() const {
  Peak peak{0, live_before, live_before_by_tag};
  std::size_t live = live_before;
  TagBytes by_tag = live_before_by_tag;
  for (std::size_t i = 0; i < events.size(); ++i) {
    const Event& event = events[i];
    std::size_t& tagged = by_tag[static_cast<std::size_t>(event.tag)];
    if (!event.allocates) {
      live -= event.bytes;
      tagged -= event.bytes;
      continue;
    }
    live += event.bytes;
    tagged += event.bytes;
    if (live > peak.bytes) peak = {i, live, by_tag};
  }
  return peak;
}

std::vector<int> StepTrace::live_after(std::size_t event) const {
  std::vector<bool> live(allocations.size());
  for (std::size_t i = 0; i <= event && i < events.size(); ++i) {
    if (events[i].allocation >= 0) live[static_cast<std::size_t>(events[i].allocation)] = events[i].allocates;
  }
  std::vector<int> found;
  for (std::size_t i = 0; i < live.size(); ++i) {
    if (live[i]) found.push_back(static_cast<int>(i));
  }
  return found;
}

TagBytes StepTrace::older_after(std::size_t event) const {
  TagBytes bytes = live_before_by_tag;
  for (std::size_t i = 0; i <= event && i < events.size(); ++i) {
    if (events[i].allocation < 0) bytes[static_cast<std::size_t>(events[i].tag)] -= events[i].bytes;
  }
  return bytes;
}

std::vector<StepTrace::Session> StepTrace::sessions() const {
  std::vector<Session> found;
  for (std::size_t i = 0; i < ops.size(); ++i) {
    if (i == 0 || ops[i].session != ops[i - 1].session) found.emplace_back().ops.begin = i;
    found.back().ops.end = i + 1;
  }
  if (found.empty()) return found;
  std::size_t at = 0;
  for (std::size_t i = 0; i < runs.size(); ++i) {
    for (; static_cast<std::size_t>(runs[i].op) >= found[at].ops.end; ++at) {
      found[at].runs.end = found[at + 1].runs.begin = i;
      found[at].events.end = found[at + 1].events.begin = runs[i].first_event;
    }
  }
  found[at].runs.end = runs.size();
  found[at].events.end = events.size();
  std::size_t live = live_before;
  for (Session& session : found) {
    session.peak = live;
    for (std::size_t i = session.events.begin; i < session.events.end; ++i) {
      live += events[i].allocates ? events[i].bytes : 0;
      live -= events[i].allocates ? 0 : events[i].bytes;
      session.peak = std::max(session.peak, live);
    }
  }
  return found;
}

Work StepTrace::work() const {
  Work all;
  for (const Run& run : runs) all += run.work;
  return all;
}

Work StepTrace::work(RunKind kind) const {
  Work all;
  for (const Run& run : runs) {
    if (run.kind == kind) all += run.work;
  }
  return all;
}

StepRecorder::StepRecorder(Device device) : device_(device) {
  restart();
  outer_ = allocator(device).set_listener(this);
}

void StepRecorder::restart() {
  const MemoryStats stats = allocator(device_).stats();
  record_ = {};
  record_.live_before = stats.live;
  record_.live_before_by_tag = stats.live_by_tag;
  session_ = 0;
  values_.clear();
  numbers_.clear();
  live_.clear();
  open_.clear();
  in_backward_ = false;
  start_ = Clock::now();
}

StepRecorder::~StepRecorder() { stop(); }

void StepRecorder::stop() noexcept {
  if (!stopped_) allocator(device_).set_listener(outer_);
  stopped_ = true;
}

StepTrace StepRecorder::take() {
  stop();
  if (lost_) throw std::bad_alloc();
  end_backward();
  return std::move(record_);
}

void StepRecorder::end_backward() {
  if (!in_backward_) return;
  in_backward_ = false;
  record_.backwards.back().runs.end = record_.runs.size();
  record_.backwards.back().events.end = record_.events.size();
}

double StepRecorder::now() const { return std::chrono::duration<double, std::micro>(Clock::now() - start_).count(); }

void StepRecorder::session_begins() {
  if (stopped_) return;
  if (!record_.ops.empty()) ++session_;
  values_.clear();
  numbers_.clear();
}

int StepRecorder::add(const palimpsest::Value& value) {
  const int number = static_cast<int>(record_.values.size());
  StepTrace::Value& made = record_.values.emplace_back();
  made.shape = value.shape();
  made.dtype = value.dtype();
  made.bytes = value.bytes();
  made.requires_grad = value.requires_grad();
  values_[&value] = number;
  return number;
}

int StepRecorder::number_of(const palimpsest::Value& value) {
  const auto entry = values_.find(&value);
  // A leaf may be where an op's output was that is gone.
  const bool is_new = entry == values_.end() || (value.leaf() && record_.value(entry->second).op >= 0);
  return is_new ? add(value) : entry->second;
}

int StepRecorder::place_of(const Node& node) {
  const auto [entry, is_new] = numbers_.try_emplace(node.index, static_cast<int>(record_.ops.size()));
  if (is_new) record_.ops.emplace_back();
  StepTrace::Op& op = record_.ops[static_cast<std::size_t>(entry->second)];
  op.session = session_;
  op.has_policy = node.policy != nullptr;
  op.begins = node.begins;
  return entry->second;
}

int StepRecorder::number_of(const Node& node) {
  const int number = place_of(node);
  StepTrace::Op& op = record_.ops[static_cast<std::size_t>(number)];
  if (op.name.empty()) {
    op.name = node.op->name();
    op.block = node.block != nullptr ? node.block->name : "";
    op.cost = node.op->cost();
    for (const ValuePtr& input : node.inputs) op.inputs.push_back(number_of(*input));
    for (std::size_t o = 0; o < node.outputs.size(); ++o) {
      op.outputs.push_back(add(*node.outputs[o]));
      StepTrace::Value& output = record_.value(op.outputs.back());
      output.op = number;
      output.recipe = "keep";
      output.output = static_cast<int>(o);
      output.optional = node.needs.optional_output(o);
    }
  }
  return number;
}

void StepRecorder::run_begins(const OpRun& run) {
  if (stopped_) return;
  if (run.kind == RunKind::Forward) end_backward();
  StepTrace::Run made;
  made.op = place_of(run.node);
  // The place of a node that waits may yet go to another.
  if (!run.node.waits) number_of(run.node);
  made.name = run.node.op->name();
  made.block = run.block != nullptr ? run.block->name : "";
  made.kind = run.kind;
  made.first_event = record_.events.size();
  made.begin_us = now();
  open_.push_back(static_cast<int>(record_.runs.size()));
  record_.runs.push_back(std::move(made));
}

void StepRecorder::run_ends(const Work& work) noexcept {
  if (stopped_ || open_.empty()) return;
  StepTrace::Run& run = record_.run(open_.back());
  open_.pop_back();
  run.work = work;
  run.last_event = record_.events.size();
  run.end_us = now();
}

void StepRecorder::placed(const palimpsest::Value& value) {
  if (stopped_) return;
  const auto entry = live_.find(value.view().data);
  if (entry != live_.end()) record_.allocation(entry->second).value = number_of(value);
}

void StepRecorder::gradient_placed(const palimpsest::Value& value, const void* address) {
  if (stopped_) return;
  const auto entry = live_.find(address);
  if (entry == live_.end()) return;
  StepTrace::Allocation& allocation = record_.allocation(entry->second);
  allocation.value = number_of(value);
  allocation.gradient = true;
}

void StepRecorder::backward_begins(const Nodes& nodes) {
  if (stopped_) return;
  end_backward();
  record_.backwards.push_back({{record_.runs.size(), 0}, {record_.events.size(), 0}});
  in_backward_ = true;
  for (const Node& node : nodes) {
    const int number = number_of(node);
    const auto reads = [&](const ValuePtr& value) {
      std::vector<int>& readers = record_.value(number_of(*value)).read_by;
      // In order; a part of what stays after one backward is told of by the next once more.
      const auto at = std::lower_bound(readers.begin(), readers.end(), number);
      if (at == readers.end() || *at != number) readers.insert(at, number);
    };
    for (std::size_t i = 0; i < node.inputs.size(); ++i) {
      if (node.needs.input(i)) reads(node.inputs[i]);
    }
    for (std::size_t o = 0; o < node.outputs.size(); ++o) {
      const palimpsest::Value& output = *node.outputs[o];
      if (node.needs.output(o) || (node.needs.optional_output(o) && output.present())) reads(node.outputs[o]);
      if (const Recipe* const recipe = output.recipe()) record_recipe(*recipe, output);
      record_.value(number_of(output)).user_holds = output.held_by_user();
    }
    const int solvable = node.op->solvable_input();
    if (solvable < 0) continue;
    const palimpsest::Value& stream = *node.inputs[static_cast<std::size_t>(solvable)];
    if (!stream.leaf()) record_.value(number_of(stream)).solvable_from = number;
  }
}

void StepRecorder::record_recipe(const Recipe& recipe, const palimpsest::Value& of) {
  std::vector<int> sources;  // first: their numbers may make room for further values
  for (const palimpsest::Value* const source : recipe.sources(of)) sources.push_back(number_of(*source));
  StepTrace::Value& value = record_.value(number_of(of));
  value.sources = std::move(sources);
  value.way = recipe.way();
  value.recipe = recipe.name();
  value.arena = recipe.arena();
  value.nesting = recipe.nesting();
  value.exact = recipe.exact(of);
}

void StepRecorder::allocated(const void* address, std::size_t bytes, Tag tag) noexcept {
  try {
    const int number = static_cast<int>(record_.allocations.size());
    const int run = open_.empty() ? -1 : open_.back();
    record_.allocations.push_back({tag, bytes, -1, false, run});
    record_.events.push_back({true, tag, bytes, reinterpret_cast<std::uintptr_t>(address), number, run, now()});
    live_[address] = number;
  } catch (...) {
    lost_ = true;
  }
}

void StepRecorder::released(const void* address, std::size_t bytes, Tag tag) noexcept {
  try {
    const auto entry = live_.find(address);
    const int number = entry != live_.end() ? entry->second : -1;
    if (number >= 0) live_.erase(entry);
    const int run = open_.empty() ? -1 : open_.back();
    record_.events.push_back({false, tag, bytes, reinterpret_cast<std::uintptr_t>(address), number, run, now()});
  } catch (...) {
    lost_ = true;
  }
}

}  // namespace palimpsest::memory
