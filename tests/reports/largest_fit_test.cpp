// The search for the largest batch and depth that fit.

#include <gtest/gtest.h>

#include <palimpsest/reports/largest_fit.hpp>

namespace palimpsest::reports {
namespace {

/// All curves that the search is for: lines and parabolas with kinks, from every start, with and without small numbers.
TEST(FindLargest, FindsTheLastThatFitsWithFewTrials) {
  const std::vector<std::function<double(double)>> curves = {
      [](double n) { return 50 + 10 * n; }, [](double n) { return 1000 + 3 * n + 0.5 * n * n; },
      [](double n) { return std::max(2000 + n, 30 * n); }, [](double n) { return 7 * n + (std::int64_t(n) % 3); }};
  for (const auto& curve : curves) {
    for (const std::int64_t answer : {0, 1, 2, 17, 180, 999, 1000}) {
      for (const std::int64_t start : {1, 2, 16, 500, 1000}) {
        int calls = 0;
        std::int64_t highest = 0;
        FitSearch search{.budget = static_cast<std::size_t>(curve(static_cast<double>(answer) + 0.5)),
                         .start = start,
                         .most = 1000,
                         .bytes = [&](std::int64_t n) {
                           ++calls;
                           highest = std::max(highest, n);
                           return std::optional(static_cast<std::size_t>(curve(static_cast<double>(n))));
                         }};
        const std::size_t next = static_cast<std::size_t>(curve(static_cast<double>(answer + 1)));
        if (next <= search.budget) continue;  // a curve that rises too slowly to tell the two apart
        const auto found = find_largest(search);
        ASSERT_TRUE(found.has_value());
        EXPECT_EQ(*found, (LargestFit{answer, true})) << "from " << start;
        EXPECT_LE(calls, 16) << answer << " from " << start;
        EXPECT_LE(highest, std::max(start, 4 * answer + 2)) << answer << " from " << start;
        search.most_calls = 2;
        const auto hurried = find_largest(search);
        EXPECT_LE(hurried->number, answer);
      }
    }
  }
}

TEST(FindLargest, LeavesOutWhatThereIsNot) {
  FitSearch search{.budget = 100, .start = 20, .most = 1000, .bytes = [](std::int64_t n) -> std::optional<std::size_t> {
                     if (n < 12) return std::nullopt;
                     return static_cast<std::size_t>(5 * n);
                   }};
  EXPECT_EQ(find_largest(search), (LargestFit{20, true}));
  search.budget = 75;
  EXPECT_EQ(find_largest(search), (LargestFit{15, true}));
  search.budget = 50;
  EXPECT_EQ(find_largest(search), std::nullopt);
}

}  // namespace
}  // namespace palimpsest::reports
