#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <set>
#include <vector>

#include <palimpsest/core/hash.hpp>
#include <palimpsest/core/kernel.hpp>
#include <palimpsest/core/parallel.hpp>
#include <palimpsest/core/philox.hpp>
#include <palimpsest/core/shape.hpp>
#include <palimpsest/core/types.hpp>

namespace palimpsest {
namespace {

TEST(Shape, CountsAndNames) {
  const Shape image{2, 3, 5, 7};
  EXPECT_EQ(image.count(), 210);
  EXPECT_EQ(image.pixels(), 70);
  EXPECT_EQ(concat_text(image), "(2, 3, 5, 7)");
  EXPECT_EQ(Shape{}.count(), 1);
  EXPECT_EQ((Shape{4, 9}.pixels()), 4);
  EXPECT_EQ(image.with_channels(9), (Shape{2, 9, 5, 7}));
}

TEST(Shape, RefusesWhatIsNoShape) {
  EXPECT_THROW((Shape{2, 0}), ShapeError);
  EXPECT_THROW((Shape{-1}), ShapeError);
  EXPECT_THROW((Shape{1, 1, 1, 1, 1}), ShapeError);
}

TEST(Types, WithFloatRefusesIntegers) {
  EXPECT_EQ(with_float(Dtype::Float64, "op", [](auto zero) { return sizeof zero; }), 8U);
  EXPECT_THROW(with_float(Dtype::Int32, "op", [](auto) {}), DtypeError);
}

// The known answers of Random123's test vectors for philox4x32-10.
TEST(Philox, KnownAnswers) {
  EXPECT_EQ(philox(0, 0, 0), (std::array<std::uint32_t, 4>{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(philox(~std::uint64_t{0}, ~std::uint64_t{0}, ~std::uint64_t{0}),
            (std::array<std::uint32_t, 4>{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(philox(0x299f31d0a4093822, 0x85a308d3243f6a88, 0x0370734413198a2e),
            (std::array<std::uint32_t, 4>{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(Random, StreamsDifferAndRepeat) {
  Random a(1, 0);
  Random b(1, 1);
  Random again(1, 0);
  const std::uint64_t first = a.below(1'000'000'007);
  EXPECT_NE(first, b.below(1'000'000'007));
  EXPECT_EQ(first, again.below(1'000'000'007));
}

TEST(Random, MomentsOfUniformAndNormal) {
  Random random(5);
  double sum = 0;
  double squares = 0;
  constexpr int draws = 200'000;
  for (int i = 0; i < draws; ++i) {
    const double uniform = random.uniform();
    ASSERT_GE(uniform, 0);
    ASSERT_LT(uniform, 1);
    const double normal = random.normal();
    sum += normal;
    squares += normal * normal;
  }
  EXPECT_NEAR(sum / draws, 0, 0.01);
  EXPECT_NEAR(squares / draws, 1, 0.02);
}

// Published values of FNV-1a with 128 bits.
TEST(Hash128, KnownAnswers) {
  EXPECT_EQ(Hash128{}.hex(), "6c62272e07bb014262b821756295c58d");
  Hash128 hash;
  hash.add("a", 1);
  EXPECT_EQ(hash.hex(), "d228cb696f1a8caf78912b704e4a8964");
  Hash128 parts;
  parts.add("foo", 3);
  parts.add("bar", 3);
  EXPECT_EQ(parts.hex(), "343e1662793c64bf6f0d3597ba446f18");
}

TEST(Isa, HasAName) { EXPECT_FALSE(to_string(cpu_isa()).empty()); }

class ParallelFor : public ::testing::TestWithParam<int> {
 protected:
  ParallelFor() { set_thread_count(GetParam()); }
  ~ParallelFor() override { set_thread_count(before_); }

 private:
  int before_ = thread_count();
};

TEST_P(ParallelFor, RunsEveryTaskOnce) {
  for (const std::int64_t tasks : {0, 1, 2, 3, 7, 64, 1000}) {
    std::vector<std::atomic<int>> runs(static_cast<std::size_t>(tasks));
    parallel_for(tasks, [&](std::int64_t task) { ++runs[static_cast<std::size_t>(task)]; });
    EXPECT_TRUE(std::all_of(runs.begin(), runs.end(), [](const std::atomic<int>& count) { return count == 1; }))
        << tasks;
  }
}

TEST_P(ParallelFor, NestedRunsOnItsOwnThread) {
  std::vector<std::int64_t> sums(16);
  parallel_for(16, [&](std::int64_t outer) {
    parallel_for(10, [&](std::int64_t inner) { sums[static_cast<std::size_t>(outer)] += inner; });
  });
  for (const std::int64_t sum : sums) EXPECT_EQ(sum, 45);
}

TEST_P(ParallelFor, ManySmallJobsInARow) {
  std::int64_t total = 0;
  std::vector<std::int64_t> partial(4);
  for (int job = 0; job < 5000; ++job) {
    parallel_for(4, [&](std::int64_t task) { partial[static_cast<std::size_t>(task)] = task + job; });
    for (const std::int64_t value : partial) total += value;
  }
  EXPECT_EQ(total, 4LL * 5000 * 4999 / 2 + 6LL * 5000);
}

INSTANTIATE_TEST_SUITE_P(Threads, ParallelFor, ::testing::Values(1, 2, 3, 7));

TEST(ThreadCount, RefusesNonsense) {
  EXPECT_THROW(set_thread_count(0), ValueError);
  EXPECT_THROW(set_thread_count(257), ValueError);
}

}  // namespace
}  // namespace palimpsest
