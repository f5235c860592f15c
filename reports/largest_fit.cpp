#include <palimpsest/reports/largest_fit.hpp>

#include <algorithm>
#include <cmath>
#include <vector>

namespace palimpsest::reports {
namespace {

using Samples = std::map<std::int64_t, std::size_t>;

/// The value at `x` of the polynomial through some points, at most three.
double interpolated(const std::vector<std::pair<double, double>>& points, double x) {
  double sum = 0;
  for (std::size_t i = 0; i < points.size(); ++i) {
    double term = points[i].second;
    for (std::size_t j = 0; j < points.size(); ++j) {
      if (j != i) term *= (x - points[j].first) / (points[i].first - points[j].first);
    }
    sum += term;
  }
  return sum;
}

/// The last number in good .. bad - 1 that the samples next to the budget let expect to fit; `good` is one.
std::int64_t expected(const Samples& samples, std::size_t budget, std::int64_t good, std::int64_t bad) {
  std::vector<std::pair<double, double>> points;
  for (const auto& [number, bytes] : samples) {
    points.emplace_back(static_cast<double>(number), static_cast<double>(bytes));
  }
  const auto limit = static_cast<double>(budget);
  std::sort(points.begin(), points.end(),
            [limit](const auto& a, const auto& b) { return std::abs(a.second - limit) < std::abs(b.second - limit); });
  points.resize(std::min<std::size_t>(points.size(), 3));
  while (bad - good > 1) {
    const std::int64_t middle = good + (bad - good) / 2;
    (interpolated(points, static_cast<double>(middle)) <= limit ? good : bad) = middle;
  }
  return good;
}

}  // namespace

std::optional<LargestFit> find_largest(const FitSearch& search) {
  Samples samples = search.known;
  std::int64_t good = search.known_fit;
  std::int64_t bad = search.most + 1;
  for (const auto& [number, bytes] : samples) {
    if (bytes <= search.budget) {
      good = std::max(good, number);
    } else {
      bad = std::min(bad, number);
    }
  }
  bool there = true;    // whether `good` is a number that there is
  bool halved = false;  // whether the slope has been asked for
  const auto choose = [&](int call) {
    if (samples.empty()) return std::clamp(search.start, good + 1, bad - 1);
    const std::int64_t largest = samples.rbegin()->first;
    if (samples.size() == 1 && largest > 1 && !halved) {
      halved = true;
      return largest / 2;  // may be known to fit; it tells the slope, and what is smaller takes less long
    }
    // Halves are quicker than guesses that creep in from one side or have nothing to go by.
    if (bad <= search.most && (samples.size() == 1 || call % 4 == 3)) return good + (bad - good) / 2;
    // Beyond what was tried a line through two points may lead far astray, a parabola less so.
    const std::int64_t farthest =
        std::clamp((samples.size() < 3 ? 2 : 4) * largest + 1, good + 2, std::max(bad, good + 2));
    return std::max(expected(samples, search.budget, good, farthest), good + 1);
  };
  for (int call = 0; bad - good > 1 && call < search.most_calls; ++call) {
    const std::int64_t next = choose(call);
    const std::optional<std::size_t> bytes = search.bytes(next);
    if (bytes) samples[next] = *bytes;
    if (bytes && *bytes > search.budget) {
      bad = std::min(bad, next);
    } else if (next > good) {
      good = next;
      there = bytes.has_value();
    }
  }
  if (!there) return std::nullopt;
  return LargestFit{good, bad - good == 1};
}

}  // namespace palimpsest::reports
