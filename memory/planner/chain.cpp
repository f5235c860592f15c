#include <palimpsest/memory/planner/chain.hpp>

#include <algorithm>

namespace palimpsest::memory {

namespace {

/// The ops of a session between which one value alone is passed on, but for the last, and which of their outputs it is.
std::vector<std::pair<int, int>> ends_of_links(const StepTrace& step, int first, int end) {
  std::vector<int> last_use(step.values.size(), -1);
  for (int op = first; op < end; ++op) {
    for (const int input : step.op(op).inputs) last_use[static_cast<std::size_t>(input)] = op;
  }
  // How many values are made before an op and read by it or a later one.
  std::vector<int> passed_on(static_cast<std::size_t>(end) + 1);
  for (std::size_t v = 0; v < step.values.size(); ++v) {
    for (int op = step.values[v].op + 1; step.values[v].op >= first && op <= last_use[v]; ++op)
      ++passed_on[static_cast<std::size_t>(op)];
  }
  std::vector<std::pair<int, int>> ends;
  for (int op = first; op + 1 < end; ++op) {
    if (passed_on[static_cast<std::size_t>(op) + 1] != 1 || !step.op(op).has_policy) continue;
    for (const int output : step.op(op).outputs) {
      const StepTrace::Value& value = step.value(output);
      if (last_use[static_cast<std::size_t>(output)] > op && !value.user_holds) ends.emplace_back(op, value.output);
    }
  }
  return ends;
}

}  // namespace

std::optional<Chain> Chain::find(const StepTrace& step, std::size_t session, int most_links) {
  const Stretch range = step.sessions().at(session).ops;
  const int end = static_cast<int>(range.end);
  Chain chain;
  chain.session_ = session;
  chain.first_op_ = static_cast<int>(range.begin);
  const std::vector<std::pair<int, int>> ends = ends_of_links(step, chain.first_op_, end);
  const std::size_t cuts = std::min(ends.size(), static_cast<std::size_t>(most_links) - 1);
  for (std::size_t i = 1; i <= cuts; ++i) {
    const auto [op, output] = ends[i * ends.size() / cuts - 1];
    chain.last_op_.push_back(op);
    chain.output_.push_back(output);
  }
  if (chain.last_op_.size() < 2) return std::nullopt;
  chain.last_op_.push_back(end - 1);
  chain.output_.push_back(0);
  int link = 0;
  for (int op = chain.first_op_; op < end; ++op) {
    if (op > chain.last_op_[static_cast<std::size_t>(link)]) ++link;
    chain.link_of_op_.push_back(link);
  }
  return chain;
}

int Chain::link_of(int op) const {
  const bool own = op >= first_op_ && op <= last_op_.back();
  return own ? link_of_op_[static_cast<std::size_t>(op - first_op_)] : -1;
}

int Chain::link_that_ends_in(int op, int output) const {
  const int link = link_of(op);
  if (link < 0) return -1;
  const auto at = static_cast<std::size_t>(link);
  return last_op_[at] == op && output_[at] == output ? link : -1;
}

/// The links as one rehearsal shows them.
class Chain::Reading {
 public:
  Reading(const Chain& chain, Rehearsed rehearsed)
      : chain_(chain),
        plan_(std::move(rehearsed.plan)),
        step_(std::move(rehearsed.step)),
        session_(step_.sessions().at(chain.session_)) {
    live_.push_back(static_cast<std::int64_t>(step_.live_before));
    for (const StepTrace::Event& event : step_.events) {
      const auto bytes = static_cast<std::int64_t>(event.bytes);
      live_.push_back(live_.back() + (event.allocates ? bytes : -bytes));
    }
    read();
  }

  bool complete() const { return complete_; }

  /// The events of a link's forward.
  Stretch forward(int link) const { return forward_[index(link)]; }
  /// The runs of a link's backward, with those for what is inside it.
  Stretch backward(int link) const { return backward_[index(link)]; }
  /// The runs that first made its result again; empty if none did.
  Stretch replayed(int link) const { return replayed_[index(link)]; }

  std::int64_t live_at(std::size_t event) const { return live_[event]; }
  /// The most that is live from just before the first event to just after the last.
  std::int64_t most(Stretch events) const {
    return *std::max_element(live_.begin() + static_cast<std::ptrdiff_t>(events.begin),
                             live_.begin() + static_cast<std::ptrdiff_t>(events.end) + 1);
  }
  Stretch events_of(Stretch runs) const {
    return {step_.runs[runs.begin].first_event, step_.runs[runs.end - 1].last_event};
  }
  std::size_t begin() const { return session_.events.begin; }
  std::size_t end() const { return session_.events.end; }
  std::size_t first_forward() const { return step_.runs[session_.runs.begin].first_event; }

  bool keeps(int link) const {
    return plan_.at(chain_.last_op_[index(link)], chain_.output_[index(link)]).way == Way::Keep;
  }
  double seconds(Stretch runs, const Rates& rates) const {
    double sum = 0;
    for (std::size_t i = runs.begin; i < runs.end; ++i) sum += rates.seconds(step_.runs[i].work);
    return sum;
  }
  const StepTrace& step() const { return step_; }

 private:
  static std::size_t index(int link) { return static_cast<std::size_t>(link); }

  void read() {
    const std::size_t links = index(chain_.count());
    std::vector<std::size_t> ends(links);           // events
    std::vector<std::size_t> last_backward(links);  // one more than the run
    replayed_.resize(links);
    for (std::size_t r = session_.runs.begin; r < session_.runs.end; ++r) {
      const StepTrace::Run& run = step_.runs[r];
      const std::size_t link = index(chain_.link_of(run.op));
      if (run.kind == RunKind::Forward) ends[link] = std::max(ends[link], run.last_event);
      if (run.kind == RunKind::Backward) last_backward[link] = r + 1;
      Stretch& again = replayed_[link];
      if (run.kind == RunKind::Replay && again.end == 0) {
        // The link's runs just before the one that makes its result.
        if (again.begin == 0 || index(chain_.link_of(step_.runs[r - 1].op)) != link) again.begin = r;
        if (run.op == chain_.last_op_[link]) again.end = r + 1;
      }
    }
    for (std::size_t link = 0; link < links; ++link) {
      forward_.push_back({link == 0 ? first_forward() : ends[link - 1], ends[link]});
      if (last_backward[link] == 0 || forward_[link].end < forward_[link].begin) complete_ = false;
      if (link > 0 && last_backward[link] >= last_backward[link - 1]) complete_ = false;
      if (!complete_) return;
      const std::size_t end = last_backward[link];
      std::size_t begin = end - 1;
      const int first_op = link == 0 ? chain_.first_op_ : chain_.last_op_[link - 1] + 1;
      const bool one_op = first_op == chain_.last_op_[link];
      while (!one_op && begin > session_.runs.begin && step_.runs[begin - 1].kind != RunKind::Forward &&
             index(chain_.link_of(step_.runs[begin - 1].op)) == link)
        --begin;
      backward_.push_back({begin, end});
    }
  }

  const Chain& chain_;
  Plan plan_;
  StepTrace step_;
  StepTrace::Session session_;
  std::vector<std::int64_t> live_;  // before each event, and at the end
  std::vector<Stretch> forward_;
  std::vector<Stretch> backward_;
  std::vector<Stretch> replayed_;
  bool complete_ = true;
};

/// The results that each link's backward reads, and their sizes.
std::vector<ChainLink> Chain::read_needs(const StepTrace& step) const {
  std::vector<ChainLink> chain(last_op_.size());
  const int last = count() - 1;
  for (const StepTrace::Value& value : step.values) {
    const int maker = link_of(value.op);
    if (maker < 0) continue;
    const bool is_result = link_that_ends_in(value.op, value.output) >= 0;
    if (is_result && maker < last)
      chain[static_cast<std::size_t>(maker)].bytes = static_cast<std::int64_t>(value.bytes);
    for (const int op : value.read_by) {
      ChainLink& reader = chain[static_cast<std::size_t>(link_of(op))];
      if (link_of(op) != maker) {
        reader.reads_input = true;
      } else if (is_result) {
        reader.reads_output |= maker < last;
      } else {
        reader.reads_input |= !value.optional;  // what is inside a link is made from the result of the one before
      }
    }
  }
  return chain;
}

std::optional<std::vector<ChainLink>> Chain::measure(const Rates& rates, const Rehearse& rehearse) {
  const Reading all_kept(*this, rehearse([](int) { return true; }));
  const Reading none_kept(*this, rehearse([](int) { return false; }));
  const Reading even_kept(*this, rehearse([](int link) { return link % 2 == 0; }));
  const Reading odd_kept(*this, rehearse([](int link) { return link % 2 == 1; }));
  for (const Reading* reading : {&all_kept, &none_kept, &even_kept, &odd_kept}) {
    if (!reading->complete()) return std::nullopt;
  }
  std::vector<ChainLink> chain = read_needs(all_kept.step());
  measure_forward(chain, {&none_kept, &even_kept, &odd_kept, &all_kept});
  measure_backward(chain, all_kept, none_kept);
  for (int link = 0; link < count(); ++link) {
    const Stretch again = none_kept.replayed(link);
    if (again.end == 0) continue;
    const Stretch events = none_kept.events_of(again);
    ChainLink& made = chain[static_cast<std::size_t>(link)];
    made.replay_bytes = none_kept.most(events) - none_kept.live_at(events.begin);
    made.replay_seconds = none_kept.seconds(again, rates);
  }
  floor_ = std::max(all_kept.most({all_kept.begin(), all_kept.first_forward()}),
                    all_kept.most({all_kept.events_of(all_kept.backward(0)).end, all_kept.end()}));
  return chain;
}

void Chain::measure_forward(std::vector<ChainLink>& chain, const std::array<const Reading*, 4>& readings) const {
  const auto [none_kept, even_kept, odd_kept, all_kept] = readings;
  const auto peak = [&](const Reading& reading, int link) {
    std::int64_t before = 0;  // results before the link's input that stay from forward on
    for (int other = 0; other < link - 1; ++other) {
      const bool read = is_wanted(chain, other) || !reading.keeps(other + 1);
      if (reading.keeps(other) && read) before += chain[static_cast<std::size_t>(other)].bytes;
    }
    return reading.most(reading.forward(link)) - before;
  };
  for (int link = 0; link < count(); ++link) {
    // With every other result kept, the link's own and the one before are never kept both.
    const Reading& own_kept = link % 2 == 0 ? *even_kept : *odd_kept;
    const Reading& own_replayed = link % 2 == 0 ? *odd_kept : *even_kept;
    chain[static_cast<std::size_t>(link)].forward_peak = {
        {{peak(*none_kept, link), peak(own_kept, link)}, {peak(own_replayed, link), peak(*all_kept, link)}}};
  }
}

void Chain::measure_backward(std::vector<ChainLink>& chain, const Reading& all_kept, const Reading& none_kept) const {
  int last_wanted = count() - 2;
  while (last_wanted >= 0 && !is_wanted(chain, last_wanted)) --last_wanted;
  // The first link in backward that wants a result which is not there; all before it have been made again by then.
  const bool by_the_next = last_wanted >= 0 && chain[static_cast<std::size_t>(last_wanted) + 1].reads_input;
  const int first_to_want = last_wanted + (by_the_next ? 1 : 0);
  std::int64_t kept_before = 0;
  std::int64_t made_before = 0;
  for (int link = 0; link < count(); ++link) {
    ChainLink& made = chain[static_cast<std::size_t>(link)];
    const std::int64_t own = made.reads_output ? made.bytes : 0;
    const Stretch kept = all_kept.events_of(all_kept.backward(link));
    made.before_backward = all_kept.live_at(kept.begin) - own - kept_before;
    made.backward_peak[1] = all_kept.most(kept) - own - kept_before;
    made.backward_peak[0] = made.backward_peak[1];
    if (link <= first_to_want)
      made.backward_peak[0] = none_kept.most(none_kept.events_of(none_kept.backward(link))) - own - made_before;
    kept_before += is_wanted(chain, link) ? made.bytes : 0;
    made_before += made.bytes;
  }
}

bool Chain::is_wanted(const std::vector<ChainLink>& chain, int link) const {
  const auto at = static_cast<std::size_t>(link);
  return chain[at].reads_output || (link + 1 < count() && chain[at + 1].reads_input);
}

}  // namespace palimpsest::memory
