#include <palimpsest/memory/planner/calibration.hpp>

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <exception>
#include <limits>
#include <optional>
#include <utility>

#include <palimpsest/autograd/observer.hpp>
#include <palimpsest/core/device.hpp>
#include <palimpsest/core/error.hpp>
#include <palimpsest/memory/policies.hpp>

namespace palimpsest::memory {
namespace {

constexpr std::size_t terms = 3;  // operations, bytes, the run itself
using Vector = std::array<double, terms>;

/// A term that is found to cost nothing costs this in a unit of each term: a table has no room for infinity.
constexpr Vector next_to_nothing = {1e-18, 1e-18, 1e-12};
constexpr double least_difference = 0.01;

Vector amounts(const Work& work) { return {work.operations, work.bytes, 1}; }

double foretold(const Vector& costs, const Work& work) {
  const Vector amount = amounts(work);
  double seconds = 0;
  for (std::size_t i = 0; i < terms; ++i) seconds += costs[i] * amount[i];
  return seconds;
}

/// Weighted least squares over the terms of `chosen` alone; none if they cannot be told apart.
class LeastSquares {
 public:
  LeastSquares(std::span<const TimedRun> runs, std::span<const double> weights) {
    for (std::size_t r = 0; r < runs.size(); ++r) {
      const Vector amount = amounts(runs[r].work);
      for (std::size_t i = 0; i < terms; ++i) {
        right_[i] += weights[r] * amount[i] * runs[r].seconds;
        for (std::size_t j = 0; j < terms; ++j) matrix_[i][j] += weights[r] * amount[i] * amount[j];
      }
      squares_ += weights[r] * runs[r].seconds * runs[r].seconds;
    }
  }

  std::optional<Vector> solve(unsigned chosen) const {
    std::array<Vector, terms> a{};
    Vector b{};
    // Columns in units of their own length, or the pivots could not be compared with 0.
    Vector unit{};
    for (std::size_t i = 0; i < terms; ++i) unit[i] = matrix_[i][i] > 0 ? 1 / std::sqrt(matrix_[i][i]) : 0;
    for (std::size_t i = 0; i < terms; ++i) {
      const bool in = (chosen >> i & 1) != 0;
      if (in && unit[i] == 0) return std::nullopt;
      b[i] = in ? right_[i] * unit[i] : 0;
      for (std::size_t j = 0; j < terms; ++j)
        a[i][j] = in && (chosen >> j & 1) != 0 ? matrix_[i][j] * unit[i] * unit[j] : i == j ? 1 : 0;
    }
    for (std::size_t k = 0; k < terms; ++k) {  // positive definite: needs no exchange of rows
      if (a[k][k] < 1e-9) return std::nullopt;
      for (std::size_t i = k + 1; i < terms; ++i) {
        const double factor = a[i][k] / a[k][k];
        for (std::size_t j = k; j < terms; ++j) a[i][j] -= factor * a[k][j];
        b[i] -= factor * b[k];
      }
    }
    for (std::size_t k = terms; k-- > 0;) {
      for (std::size_t j = k + 1; j < terms; ++j) b[k] -= a[k][j] * b[j];
      b[k] /= a[k][k];
    }
    for (std::size_t i = 0; i < terms; ++i) b[i] *= unit[i];
    return b;
  }

  double error(const Vector& costs) const {
    double sum = squares_;
    for (std::size_t i = 0; i < terms; ++i) {
      sum -= 2 * costs[i] * right_[i];
      for (std::size_t j = 0; j < terms; ++j) sum += costs[i] * matrix_[i][j] * costs[j];
    }
    return sum;
  }

 private:
  std::array<Vector, terms> matrix_{};
  Vector right_{};
  double squares_ = 0;
};

/// The best costs that are not negative: with so few terms, the best of all choices of those that are not 0.
Vector non_negative(const LeastSquares& problem) {
  Vector best{};
  double least = std::numeric_limits<double>::infinity();
  for (unsigned chosen = 1; chosen < 1U << terms; ++chosen) {
    const std::optional<Vector> costs = problem.solve(chosen);
    if (!costs || std::any_of(costs->begin(), costs->end(), [](double cost) { return cost < 0; })) continue;
    const double error = problem.error(*costs);
    if (error < least) {
      least = error;
      best = *costs;
    }
  }
  return best;
}

double median(std::vector<double> numbers) {
  std::sort(numbers.begin(), numbers.end());
  const std::size_t half = numbers.size() / 2;
  return numbers.size() % 2 == 1 ? numbers[half] : (numbers[half - 1] + numbers[half]) / 2;
}

/// Times the runs of a step, each without those that run within it.
class RunTimer : public Observer {
 public:
  explicit RunTimer(const Calibration::Clock& clock) : clock_(clock) {}

  void run_begins(const OpRun& run) override {
    add_to_innermost();
    open_.push_back(runs_.size());
    kinds_.push_back(run.kind);
    runs_.emplace_back();
  }
  void run_ends(const Work& work) noexcept override {
    if (open_.empty()) return;
    try {
      add_to_innermost();
    } catch (...) {
      failure_ = std::current_exception();
    }
    runs_[open_.back()].work = work;
    open_.pop_back();
  }

  /// Throws what waiting for the device has thrown where nothing may.
  void check() const {
    if (failure_ != nullptr) std::rethrow_exception(failure_);
  }
  const std::vector<TimedRun>& runs() const { return runs_; }
  bool fetches(std::size_t run) const { return kinds_[run] == RunKind::Fetch; }

 private:
  void add_to_innermost() {
    const double now = clock_();
    if (!open_.empty()) runs_[open_.back()].seconds += now - last_;
    last_ = now;
  }

  const Calibration::Clock& clock_;
  std::vector<TimedRun> runs_;
  std::vector<RunKind> kinds_;
  std::vector<std::size_t> open_;
  double last_ = 0;
  std::exception_ptr failure_;
  ObserverScope scope_{this};
};

/// The offload policy's computation, without its moves.
PolicyPtr move_nothing() { return offload({.at_least = std::numeric_limits<std::size_t>::max()}); }

}  // namespace

Rates fit_rates(std::span<const TimedRun> runs, const Rates& otherwise) {
  double all = 0;
  for (const TimedRun& run : runs) all += run.seconds;
  if (!(all > 0)) throw ValueError("no run of an op took any time: there is nothing to find rates from");
  // No weight is beyond that of a thousandth of the mean: what no clock resolves does not decide.
  const double shortest = all / static_cast<double>(runs.size()) / 1000;
  std::vector<double> weights(runs.size());
  for (std::size_t r = 0; r < runs.size(); ++r) weights[r] = 1 / std::max(runs[r].seconds, shortest);
  Vector costs{};
  constexpr int rounds = 20;  // weights follow the fit, and settle within a few
  for (int round = 0; round < rounds; ++round) {
    costs = non_negative(LeastSquares(runs, weights));
    for (std::size_t r = 0; r < runs.size(); ++r) weights[r] = 1 / std::max(foretold(costs, runs[r].work), shortest);
  }
  for (std::size_t i = 0; i < terms; ++i) costs[i] = std::max(costs[i], next_to_nothing[i]);
  Rates rates = otherwise;
  rates.operations_per_second = 1 / costs[0];
  rates.bytes_per_second = 1 / costs[1];
  rates.seconds_per_run = costs[2];
  return rates;
}

/// Steps under one policy.
struct Calibration::Series {
  PolicyPtr policy;
  bool warm = false;
  std::vector<double> steps;                              // seconds of each
  std::vector<TimedRun> runs;                             // of the step, each with the least time so far
  double rest = std::numeric_limits<double>::infinity();  // of a step, outside of runs; likewise
  double fetched_bytes = 0;

  /// Seconds of a step that nothing disturbs.
  double undisturbed() const {
    double sum = rest;
    for (const TimedRun& run : runs) sum += run.seconds;
    return sum;
  }
};

Calibration::Calibration(Device device)
    : Calibration(device, [device] {
        synchronize(device);
        return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
      }) {}

void Calibration::take_turn(const Step& step, Series& series) const {
  const RunTimer timer(clock_);
  const double begin = clock_();
  step(series.policy);
  timer.check();
  const double seconds = clock_() - begin;
  if (!series.warm) {
    series.warm = true;
    return;
  }
  std::vector<TimedRun> runs;
  series.fetched_bytes = 0;
  double rest = seconds;
  for (std::size_t i = 0; i < timer.runs().size(); ++i) {
    rest -= timer.runs()[i].seconds;
    if (timer.fetches(i)) {
      series.fetched_bytes += timer.runs()[i].work.bytes;
    } else {
      runs.push_back(timer.runs()[i]);
    }
  }
  if (series.runs.empty()) series.runs = runs;
  if (series.runs.size() != runs.size()) {
    throw StateError(concat_text("a step under ", series.policy->name(), " had ", series.runs.size(),
                                 " runs of ops, and then ", runs.size(), ": it is not the same every time"));
  }
  for (std::size_t i = 0; i < runs.size(); ++i)
    series.runs[i].seconds = std::min(series.runs[i].seconds, runs[i].seconds);
  series.rest = std::min(series.rest, rest);
  series.steps.push_back(seconds);
}

void Calibration::measure(const Step& step, int rounds, const PolicyPtr& offloading) {
  if (rounds < 1) throw ValueError(concat_text("expected at least one round of steps, not ", rounds));
  std::vector<Series> turns;
  for (const PolicyPtr& policy : {store_all(), shared(), checkpoint(), reversible(), move_nothing(), offloading}) {
    Series series{.policy = policy, .steps = {}, .runs = {}};
    try {
      take_turn(step, series);
    } catch (const IdlePolicyError&) {
      continue;
    }
    turns.push_back(std::move(series));
  }
  for (int round = 0; round < rounds; ++round) {
    for (Series& series : turns) take_turn(step, series);
  }
  for (const Series& series : turns) runs_.insert(runs_.end(), series.runs.begin(), series.runs.end());
  if (turns.size() < 2 || turns.back().policy != offloading || turns.back().fetched_bytes == 0) return;
  const Series& in_place = *std::prev(turns.end(), 2);
  std::vector<double> ratios;
  for (int round = 0; round < rounds; ++round) {
    const auto r = static_cast<std::size_t>(round);
    ratios.push_back(turns.back().steps[r] / in_place.steps[r]);
  }
  moved_bytes_ += 2 * turns.back().fetched_bytes;
  moving_seconds_ += std::max(median(std::move(ratios)) - 1, least_difference) * in_place.undisturbed();
}

Rates Calibration::rates() const {
  Rates rates = fit_rates(runs_, Rates::standard(device_));
  if (moving_seconds_ > 0) rates.offload_bytes_per_second = moved_bytes_ / moving_seconds_;
  return rates;
}

}  // namespace palimpsest::memory
