#include <palimpsest/memory/planner/chain_schedule.hpp>

#include <algorithm>
#include <limits>
#include <unordered_map>

#include <palimpsest/memory/planner/plan.hpp>

namespace palimpsest::memory {
namespace {

struct Subschedule;
/// From the least peak to the least time; none beats another in both.
using Subschedules = std::vector<Subschedule>;

/// A schedule of a part of the work, and the schedules of smaller parts that it is put together from.
struct Subschedule {
  struct Part {
    const Subschedules* those = nullptr;
    std::size_t chosen = 0;
  };

  std::int64_t peak = 0;
  double seconds = 0;
  int split = 0;      ///< the result that stays; 0: there is nothing to decide, but perhaps in `before`
  bool kept = false;  ///< since forward
  Part after;         ///< what is done about the links behind the split ...
  Part before;        ///< ... and then about those before it
};

constexpr std::int64_t nothing = std::numeric_limits<std::int64_t>::min() / 4;

/// The state of the result behind the wanted one, when the link between them wants it.
enum Next : std::uint8_t {
  NextKept,      ///< it was kept
  NextReplayed,  ///< it was made again, and is there if the link reads it
  NextAbsent,    ///< the link reads it, and it has to be made again as well
  WantedByOwn,   ///< the result is wanted by the link that makes it
};

/// Results are numbered from 1, so that 0 is what the chain begins with, and link i makes result i from result i - 1.
/// Peaks of a part of the work leave out the results that are there before and after it, which the callers add.
class Scheduler {
 public:
  Scheduler(std::span<const ChainLink> links, std::size_t alternatives)
      : links_(links), count_(static_cast<int>(links.size())), alternatives_(alternatives) {}

  std::vector<ChainSchedule> run(std::int64_t floor) {
    std::vector<ChainSchedule> found;
    const Subschedules& all = from(0);
    for (std::size_t i = 0; i < all.size(); ++i) {
      const std::int64_t peak = std::max(all[i].peak, floor);
      if (i + 1 < all.size() && all[i + 1].peak <= floor) continue;  // no thriftier than the next, which is faster
      ChainSchedule schedule{peak, all[i].seconds, std::vector<int>(links_.size() - 1, Plan::most_nesting)};
      read_off(all[i], 0, schedule);
      found.push_back(std::move(schedule));
    }
    return found;
  }

 private:
  enum State : std::uint8_t { From, Between };

  const ChainLink& link(int i) const { return links_[static_cast<std::size_t>(i - 1)]; }
  std::int64_t bytes(int i) const { return i == 0 || i == count_ ? 0 : link(i).bytes; }
  bool wanted(int i) const { return link(i).reads_output || (i < count_ && link(i + 1).reads_input); }
  /// True if nobody reads any of the results from i to before `kept`, a kept one: they are gone with forward.
  bool idle_until(int i, int kept) const {
    for (; i < kept; ++i) {
      if (wanted(i)) return false;
    }
    return true;
  }

  /// Adds the ways of doing one thing after the other.
  struct Combination {
    int split;
    bool kept;
    const Subschedules* after;
    std::int64_t after_extra;  ///< live beside it
    const Subschedules* before;
    std::int64_t peak;  ///< of what is done in any case
    double seconds;
  };

  void combine(Subschedules& all, const Combination& both) const {
    const Subschedules& after = *both.after;
    const Subschedules& before = *both.before;
    if (after.empty()) return;  // the split would keep what nobody reads
    // The fastest of each that stay below a rising limit.
    std::size_t i = 0;
    std::size_t j = 0;
    while (true) {
      const std::int64_t first = after[i].peak + both.after_extra;
      const std::int64_t peak = std::max({first, before[j].peak, both.peak});
      // More of what does not decide the peak is for nothing.
      while (i + 1 < after.size() && after[i + 1].peak + both.after_extra <= peak) ++i;
      while (j + 1 < before.size() && before[j + 1].peak <= peak) ++j;
      all.push_back({peak,
                     both.seconds + after[i].seconds + before[j].seconds,
                     both.split,
                     both.kept,
                     {both.after, i},
                     {both.before, j}});
      const bool more_after = i + 1 < after.size();
      const bool more_before = j + 1 < before.size();
      if (!more_after && !more_before) return;
      const std::int64_t next_after = more_after ? after[i + 1].peak + both.after_extra : 0;
      const std::int64_t next_before = more_before ? before[j + 1].peak : 0;
      if (!more_before || (more_after && next_after <= next_before)) {
        ++i;
      } else {
        ++j;
      }
    }
  }

  Subschedules best_of(Subschedules all) const {
    std::stable_sort(all.begin(), all.end(), [](const Subschedule& a, const Subschedule& b) {
      return a.peak != b.peak ? a.peak < b.peak : a.seconds < b.seconds;
    });
    Subschedules best;
    for (const Subschedule& each : all) {
      // Sums of the same times in another order differ by rounding; such a gain is none.
      if (best.empty() || each.seconds < best.back().seconds * (1 - 1e-12)) best.push_back(each);
    }
    if (best.size() <= alternatives_) return best;
    Subschedules fewer;
    for (std::size_t i = 0; i < alternatives_; ++i) fewer.push_back(best[i * (best.size() - 1) / (alternatives_ - 1)]);
    return fewer;
  }

  static const Subschedules& done() {
    static const Subschedules only(1, Subschedule{.peak = nothing, .after = {}, .before = {}});
    return only;
  }

  const Subschedules& remember(std::uint64_t key, Subschedules all) { return known_[key] = std::move(all); }
  static std::uint64_t key(State state, int a, int b, int detail) {
    return ((static_cast<std::uint64_t>(state) * 1024 + static_cast<std::uint64_t>(a)) * 1024 +
            static_cast<std::uint64_t>(b)) *
               8 +
           static_cast<std::uint64_t>(detail);
  }

  /// Result a is kept: forward and backward of all links behind it.
  const Subschedules& from(int a) {
    if (a == count_) return done();
    const std::uint64_t name = key(From, a, 0, 0);
    if (const auto entry = known_.find(name); entry != known_.end()) return entry->second;
    Subschedules all;
    for (int kept = a + 1; kept <= count_; ++kept) {
      // Nobody would read a.
      if (a > 0 && !wanted(a) && idle_until(a + 1, kept)) continue;
      std::int64_t peak = nothing;
      for (int k = a + 1; k <= kept; ++k) {
        const bool input_kept = k - 1 == a || idle_until(k - 1, kept);
        const bool result_kept = idle_until(k, kept);
        const std::int64_t live = link(k).forward_peak[input_kept ? 1 : 0][result_kept ? 1 : 0];
        peak = std::max(peak, live - (k - 1 == a ? bytes(a) : 0));
      }
      combine(all, {kept, true, &from(kept), bytes(kept), &back_to(a, kept, true), peak, 0});
    }
    return remember(name, best_of(std::move(all)));
  }

  /// Backward of the links from m down to before a, m there or not wanted.
  const Subschedules& back_to(int a, int m, bool kept) {
    return link(m).reads_output ? present(a, m, kept) : absent(a, m, kept);
  }

  /// One link is run backwards, in which nothing is to be decided, and then the rest.
  Subschedules before_that(std::int64_t peak, double seconds, const Subschedules& rest) const {
    Subschedules all;
    for (std::size_t i = 0; i < rest.size(); ++i)
      all.push_back({std::max(peak, rest[i].peak), seconds + rest[i].seconds, 0, false, {}, {&rest, i}});
    return best_of(std::move(all));
  }

  const Subschedules& present(int a, int m, bool kept) {
    if (link(m).reads_input && m - 1 > a) return between(a, m - 1, kept ? NextKept : NextReplayed);
    const std::uint64_t name = key(Between, a, m, 4 + (kept ? 1 : 0));
    if (const auto entry = known_.find(name); entry != known_.end()) return entry->second;
    const std::int64_t peak = link(m).backward_peak[kept ? 1 : 0] + bytes(m);
    return remember(name, before_that(peak, 0, absent(a, m - 1, m - 1 > a && kept && !wanted(m - 1))));
  }

  /// Backward of the links from i down to before a, where none of the results is there but a.
  const Subschedules& absent(int a, int i, bool kept) {
    if (i == a) return done();
    const ChainLink& own = link(i);
    if (own.reads_input && i - 1 > a)
      return between(a, i - 1, own.reads_output ? NextAbsent : kept ? NextKept : NextReplayed);
    if (!own.reads_input && own.reads_output) return between(a, i, WantedByOwn);
    const std::uint64_t name = key(Between, a, i, 6 + (kept ? 1 : 0));
    if (const auto entry = known_.find(name); entry != known_.end()) return entry->second;
    std::int64_t peak = own.backward_peak[kept ? 1 : 0];
    double seconds = 0;
    if (own.reads_output) {
      peak = std::max(peak + bytes(i), own.before_backward + own.replay_bytes);
      seconds = own.replay_seconds;
    }
    return remember(name, before_that(peak, seconds, absent(a, i - 1, i - 1 > a && kept && !wanted(i - 1))));
  }

  /// a is there and t is wanted; the links down to before a are to be run backwards.
  const Subschedules& between(int a, int t, Next next) {
    const std::uint64_t name = key(Between, a, t, next);
    if (const auto entry = known_.find(name); entry != known_.end()) return entry->second;
    const int wanting = next == WantedByOwn ? t : t + 1;
    const bool behind = (next == NextKept || next == NextReplayed) && link(wanting).reads_output;
    const std::int64_t base = link(wanting).before_backward + (behind ? bytes(wanting) : 0);
    Subschedules all;
    std::int64_t peak = nothing;
    double seconds = 0;
    for (int stays = a + 1; stays <= t; ++stays) {
      peak = std::max(peak, base + (stays - 1 > a ? bytes(stays - 1) : 0) + link(stays).replay_bytes);
      seconds += link(stays).replay_seconds;
      if (stays < t) {
        combine(all, {stays, false, &between(stays, t, next), bytes(stays), &back_to(a, stays, false), peak, seconds});
        continue;
      }
      std::int64_t then = peak;
      double replayed = seconds;
      if (next != WantedByOwn) {
        const ChainLink& reader = link(wanting);
        if (next == NextAbsent) {
          then = std::max(then, base + bytes(t) + reader.replay_bytes);
          replayed += reader.replay_seconds;
        }
        then = std::max(then, reader.backward_peak[next == NextKept ? 1 : 0] + bytes(t) +
                                  (reader.reads_output ? bytes(wanting) : 0));
      }
      combine(all, {stays, false, &done(), 0, &back_to(a, stays, false), then, replayed});
    }
    return remember(name, best_of(std::move(all)));
  }

  /// Marks the results that stay: the deeper a split is in the tree of splits, the higher its nesting.
  void read_off(const Subschedule& all, int depth, ChainSchedule& schedule) const {
    if (all.split > 0 && all.split < count_)
      schedule.nesting[static_cast<std::size_t>(all.split - 1)] = all.kept ? ChainSchedule::kept : depth;
    const int below = all.split > 0 && !all.kept ? depth + 1 : depth;
    for (const Subschedule::Part& part : {all.after, all.before}) {
      if (part.those != nullptr) read_off((*part.those)[part.chosen], below, schedule);
    }
  }

  std::span<const ChainLink> links_;
  int count_;
  std::size_t alternatives_;
  std::unordered_map<std::uint64_t, Subschedules> known_;
};

}  // namespace

std::vector<ChainSchedule> chain_schedules(std::span<const ChainLink> links, std::int64_t floor,
                                           std::size_t alternatives) {
  if (links.empty() || links.size() > static_cast<std::size_t>(Plan::most_nesting))
    throw ValueError(concat_text("a chain of ", links.size(), " links, expected 1 to ", Plan::most_nesting));
  return Scheduler(links, std::max<std::size_t>(alternatives, 2)).run(floor);
}

}  // namespace palimpsest::memory
