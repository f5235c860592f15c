// The caching allocator over sources of fixed size, and the accounting on top of it.

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <map>
#include <optional>
#include <vector>

#include <palimpsest/core/allocator.hpp>
#include <palimpsest/core/philox.hpp>
#include "tests/support/test_device.hpp"

namespace palimpsest {
namespace {

constexpr std::size_t unit = CachingAllocator::alignment;

/// The requests that a source got.
struct Log {
  std::vector<std::size_t> taken;
  std::size_t held = 0;
};

/// A range of fixed size in which pieces follow one another. `gap` bytes are left out before a piece of number
/// `gap_at`.
class Range : public MemorySource {
 public:
  Range(std::size_t capacity, std::size_t granule, Log& log) : granule_(granule), log_(log) {
    base_ = static_cast<char*>(std::aligned_alloc(unit, capacity));
    next_ = base_;
    end_ = base_ + capacity;
  }
  Range(const Range&) = delete;
  Range& operator=(const Range&) = delete;
  ~Range() override { std::free(base_); }

  void leave_gap_before(std::size_t piece) { gap_at_ = piece; }

  void* take(std::size_t bytes, std::size_t& granted) override {
    log_.taken.push_back(bytes);
    granted = (bytes + granule_ - 1) / granule_ * granule_;
    if (gap_at_ == log_.taken.size()) next_ += granule_;
    if (granted > static_cast<std::size_t>(end_ - next_)) return nullptr;
    log_.held += granted;
    char* const address = next_;
    next_ += granted;
    return address;
  }

  void give(void* address, std::size_t bytes) override {
    EXPECT_EQ(static_cast<std::size_t>(static_cast<char*>(address) - base_) % granule_, 0U);
    EXPECT_EQ(bytes % granule_, 0U);
    log_.held -= bytes;
    if (static_cast<char*>(address) + bytes == next_) next_ = static_cast<char*>(address);
  }

  std::size_t granule() const override { return granule_; }

 private:
  std::size_t granule_;
  Log& log_;
  std::size_t gap_at_ = 0;
  char* base_;
  char* next_;
  char* end_;
};

/// Pieces that stand alone; at most `capacity` bytes of them.
class Pieces : public MemorySource {
 public:
  Pieces(std::size_t capacity, Log& log) : capacity_(capacity), log_(log) {}
  Pieces(const Pieces&) = delete;
  Pieces& operator=(const Pieces&) = delete;
  ~Pieces() override { EXPECT_TRUE(sizes_.empty()); }

  void* take(std::size_t bytes, std::size_t& granted) override {
    log_.taken.push_back(bytes);
    granted = (bytes + 1023) / 1024 * 1024;
    if (log_.held + granted > capacity_) return nullptr;
    log_.held += granted;
    void* const address = std::aligned_alloc(unit, granted);
    sizes_[address] = granted;
    return address;
  }

  void give(void* address, std::size_t bytes) override {
    ASSERT_EQ(sizes_.at(address), bytes);
    log_.held -= bytes;
    sizes_.erase(address);
    std::free(address);
  }

  std::size_t granule() const override { return 0; }

 private:
  std::size_t capacity_;
  Log& log_;
  std::map<void*, std::size_t> sizes_;
};

std::size_t sum_of(const TagBytes& bytes) {
  std::size_t sum = 0;
  for (const std::size_t one : bytes) sum += one;
  return sum;
}

// --- The caching allocator -------------------------------------------------------------------------------------------

TEST(CachingAllocator, SplitsABlockAndJoinsItAgainInEveryOrder) {
  std::array<int, 4> order = {0, 1, 2, 3};
  do {
    Log log;
    CachingAllocator memory(std::make_unique<Range>(4 * unit, 4 * unit, log));
    std::array<void*, 4> blocks{};
    for (void*& block : blocks) block = memory.allocate(unit);
    EXPECT_EQ(log.taken.size(), 1U);
    for (std::size_t i = 1; i < 4; ++i)
      EXPECT_EQ(static_cast<char*>(blocks[i]) - static_cast<char*>(blocks[i - 1]), 256);
    for (const int i : order) memory.release(blocks[static_cast<std::size_t>(i)]);
    void* const whole = memory.allocate(4 * unit);
    EXPECT_EQ(whole, blocks[0]);
    EXPECT_EQ(log.taken.size(), 1U);
    memory.release(whole);
  } while (std::next_permutation(order.begin(), order.end()));
}

TEST(CachingAllocator, TakesTheSmallestBlockThatFits) {
  Log log;
  CachingAllocator memory(std::make_unique<Range>(64 * unit, 16 * unit, log));
  std::array<void*, 6> blocks{};
  const std::array<std::size_t, 6> sizes = {5, 1, 3, 1, 4, 2};
  for (std::size_t i = 0; i < 6; ++i) blocks[i] = memory.allocate(sizes[i] * unit);
  for (const std::size_t i : {0U, 2U, 4U}) memory.release(blocks[i]);
  EXPECT_EQ(memory.allocate(3 * unit), blocks[2]);
  EXPECT_EQ(memory.allocate(3 * unit), blocks[4]);
  EXPECT_EQ(memory.allocate(3 * unit), blocks[0]);
  EXPECT_EQ(memory.allocate(2 * unit), static_cast<char*>(blocks[0]) + 3 * unit);
  for (void* const block : {blocks[0], blocks[1], blocks[2], blocks[3], blocks[4], blocks[5]}) memory.release(block);
  memory.release(static_cast<char*>(blocks[0]) + 3 * unit);
}

TEST(CachingAllocator, TakesOnlyWhatIsMissingAtTheEnd) {
  Log log;
  CachingAllocator memory(std::make_unique<Range>(64 * unit, unit, log));
  void* const first = memory.allocate(4 * unit);
  void* const second = memory.allocate(6 * unit);
  memory.release(second);
  void* const third = memory.allocate(10 * unit);
  EXPECT_EQ(third, second);
  EXPECT_EQ(log.taken, (std::vector<std::size_t>{4 * unit, 6 * unit, 4 * unit}));
  EXPECT_EQ(memory.reserved(), 14 * unit);
  EXPECT_EQ(memory.system_calls(), 3U);
  memory.release(first);
  memory.release(third);
}

TEST(CachingAllocator, APieceThatDoesNotContinueTheRangeIsNotTheEnd) {
  Log log;
  auto range = std::make_unique<Range>(64 * unit, unit, log);
  range->leave_gap_before(3);
  CachingAllocator memory(std::move(range));
  void* const first = memory.allocate(4 * unit);
  void* const second = memory.allocate(6 * unit);
  memory.release(second);
  void* const third = memory.allocate(10 * unit);  // the 4 units that were missing come behind a gap
  ASSERT_NE(third, nullptr);
  EXPECT_NE(third, second);
  memory.release(first);
  memory.release(third);
  memory.release_cached();
  EXPECT_EQ(memory.reserved(), log.held);
}

TEST(CachingAllocator, PiecesThatStandAloneAreNeverJoined) {
  Log log;
  CachingAllocator memory(std::make_unique<Pieces>(1 << 20, log));
  void* const first = memory.allocate(1024);
  void* const second = memory.allocate(1024);
  memory.release(first);
  memory.release(second);
  void* const large = memory.allocate(2048);
  EXPECT_TRUE(large != first && large != second);
  EXPECT_EQ(log.taken.back(), 2048U);
  memory.release(large);
  memory.release_cached();
  EXPECT_EQ(log.held, 0U);
  EXPECT_EQ(memory.reserved(), 0U);
}

TEST(CachingAllocator, OutOfMemoryGivesBackWhatIsCachedAndTriesAgain) {
  Log log;
  CachingAllocator memory(std::make_unique<Pieces>(4096, log));
  void* const first = memory.allocate(2048);
  void* const second = memory.allocate(2048);
  memory.release(first);
  memory.release(second);
  void* const whole = memory.allocate(4096);  // the source has no more until both pieces are back
  ASSERT_NE(whole, nullptr);
  EXPECT_EQ(memory.reserved(), 4096U);
  EXPECT_EQ(memory.allocate(1), nullptr);
  memory.release(whole);
  void* const again = memory.allocate(1);
  EXPECT_EQ(again, whole);
  memory.release(again);
}

TEST(CachingAllocator, GivesBackTheFreeEndOfARange) {
  Log log;
  CachingAllocator memory(std::make_unique<Range>(64 * unit, 4 * unit, log));
  void* const first = memory.allocate(5 * unit);
  void* const second = memory.allocate(20 * unit);
  EXPECT_EQ(memory.reserved(), 28 * unit);
  memory.release(second);
  memory.release_cached();
  EXPECT_EQ(memory.reserved(), 8 * unit);  // five units in whole granules
  EXPECT_EQ(log.held, 8 * unit);
  void* const third = memory.allocate(4 * unit);  // continues what was left
  EXPECT_EQ(third, second);
  memory.release(first);
  memory.release(third);
  memory.release_cached();
  EXPECT_EQ(log.held, 0U);
}

TEST(CachingAllocator, NoBytesAreStillABlock) {
  Log log;
  CachingAllocator memory(std::make_unique<Range>(64 * unit, unit, log));
  void* const a = memory.allocate(0);
  void* const b = memory.allocate(0);
  EXPECT_TRUE(a != nullptr && b != nullptr && a != b);
  memory.release(a);
  memory.release(b);
}

/// Random requests against a model: nothing overlaps, nothing is lost.
void stress(CachingAllocator& memory, const Log& log, std::uint64_t seed) {
  struct Block {
    char* address;
    std::size_t bytes;
    unsigned char mark;
  };
  Random random(seed);
  std::vector<Block> blocks;
  const auto check_and_release = [&](std::size_t i) {
    const Block block = blocks[i];
    for (std::size_t b = 0; b < block.bytes; ++b) ASSERT_EQ(static_cast<unsigned char>(block.address[b]), block.mark);
    memory.release(block.address);
    blocks[i] = blocks.back();
    blocks.pop_back();
  };
  for (int step = 0; step < 4000; ++step) {
    if (!blocks.empty() && random.below(100) < 48) {
      check_and_release(random.below(blocks.size()));
    } else {
      const std::size_t bytes = random.below(random.below(8) == 0 ? 6000 : 700);
      char* const address = static_cast<char*>(memory.allocate(bytes));
      if (address == nullptr) continue;
      ASSERT_EQ(reinterpret_cast<std::uintptr_t>(address) % unit, 0U);
      blocks.push_back({address, bytes, static_cast<unsigned char>(step)});
      std::fill(address, address + bytes, static_cast<char>(step));
    }
    if (random.below(200) == 0) memory.release_cached();
    ASSERT_EQ(memory.reserved(), log.held);
  }
  while (!blocks.empty()) check_and_release(0);
  memory.release_cached();
  EXPECT_EQ(memory.reserved(), 0U);
  EXPECT_EQ(log.held, 0U);
}

TEST(CachingAllocator, StressOnARange) {
  for (std::uint64_t seed = 0; seed < 5; ++seed) {
    Log log;
    CachingAllocator memory(std::make_unique<Range>(1 << 17, 4096, log));
    stress(memory, log, seed);
  }
}

TEST(CachingAllocator, StressOnPieces) {
  for (std::uint64_t seed = 0; seed < 5; ++seed) {
    Log log;
    CachingAllocator memory(std::make_unique<Pieces>(1 << 17, log));
    stress(memory, log, seed);
  }
}

/// Pieces that stand alone, at addresses that rise or fall.
class Scattered : public MemorySource {
 public:
  explicit Scattered(bool rising) : rising_(rising) {}

  void* take(std::size_t bytes, std::size_t& granted) override {
    granted = (bytes + 1023) / 1024 * 1024;
    next_ += rising_ ? 0 : -granted;
    void* const address = reinterpret_cast<void*>(next_);
    next_ += rising_ ? granted : 0;
    return address;
  }
  void give(void*, std::size_t) override {}
  std::size_t granule() const override { return 0; }
  bool on_host() const override { return false; }

 private:
  bool rising_;
  std::uintptr_t next_ = std::uintptr_t{1} << 60;
};

TEST(CachingAllocator, WhatIsReservedDoesNotDependOnAddresses) {
  CachingAllocator rising(std::make_unique<Scattered>(true));
  CachingAllocator falling(std::make_unique<Scattered>(false));
  Random random(7);
  std::vector<std::pair<void*, void*>> blocks;
  for (int step = 0; step < 4000; ++step) {
    if (!blocks.empty() && random.below(100) < 48) {
      std::swap(blocks[random.below(blocks.size())], blocks.back());
      rising.release(blocks.back().first);
      falling.release(blocks.back().second);
      blocks.pop_back();
    } else {
      const std::size_t bytes = 256 * (1 + random.below(8));  // many of the same size
      blocks.emplace_back(rising.allocate(bytes), falling.allocate(bytes));
    }
    ASSERT_EQ(rising.reserved(), falling.reserved()) << step;
  }
  for (const auto& [first, second] : blocks) {
    rising.release(first);
    falling.release(second);
  }
}

// --- The accounting --------------------------------------------------------------------------------------------------

TEST(Allocator, TagsAddUpAtEveryMoment) {
  for (const Device device : {Device::Cpu, test::meta_device()}) {
    Allocator memory(device);
    Random random(1);
    std::vector<std::tuple<void*, std::size_t, Tag>> blocks;
    std::size_t live = 0;
    std::size_t peak = 0;
    for (int step = 0; step < 3000; ++step) {
      if (!blocks.empty() && random.below(2) == 0) {
        const auto [address, bytes, tag] = blocks.back();
        memory.release(address, bytes, tag);
        blocks.pop_back();
        live -= bytes;
      } else {
        const std::size_t bytes = random.below(random.below(20) == 0 ? 300000 : 3000);
        const Tag tag = static_cast<Tag>(random.below(tag_count));
        blocks.emplace_back(memory.allocate(bytes, tag), bytes, tag);
        live += bytes;
        peak = std::max(peak, live);
      }
      const MemoryStats stats = memory.stats();
      ASSERT_EQ(stats.live, live);
      ASSERT_EQ(sum_of(stats.live_by_tag), live);
      ASSERT_EQ(stats.peak, peak);
      ASSERT_EQ(sum_of(stats.peak_by_tag), peak);
      ASSERT_GE(stats.reserved, live);
      ASSERT_GE(stats.peak_reserved, stats.reserved);
    }
    for (const auto& [address, bytes, tag] : blocks) memory.release(address, bytes, tag);
    EXPECT_EQ(memory.stats().live, 0U);
    memory.release_cached();
    EXPECT_EQ(memory.stats().reserved, 0U);
    memory.reset_peak();
    EXPECT_EQ(memory.stats().peak, 0U);
    EXPECT_EQ(memory.stats().peak_reserved, 0U);
  }
}

TEST(Allocator, MetaReservesWhatTheDeviceReserves) {
  Allocator meta(test::meta_device());
  Allocator real(test::device());
  Random random(3);
  struct Pair {
    void* meta;
    void* real;
    std::size_t bytes;
    Tag tag;
  };
  std::vector<Pair> blocks;
  const auto release = [&](const Pair& block) {
    meta.release(block.meta, block.bytes, block.tag);
    real.release(block.real, block.bytes, block.tag);
  };
  for (int step = 0; step < 3000; ++step) {
    if (!blocks.empty() && random.below(100) < 48) {
      std::swap(blocks[random.below(blocks.size())], blocks.back());
      release(blocks.back());
      blocks.pop_back();
    } else {
      const std::size_t bytes = random.below(random.below(10) == 0 ? 900'000 : 70'000);
      const Tag tag = static_cast<Tag>(random.below(tag_count));
      blocks.push_back({meta.allocate(bytes, tag), real.allocate(bytes, tag), bytes, tag});
    }
    if (random.below(300) == 0) {
      meta.release_cached();
      real.release_cached();
    }
    ASSERT_EQ(meta.stats().reserved, real.stats().reserved) << step;
    ASSERT_EQ(meta.stats().system_calls, real.stats().system_calls) << step;
  }
  for (const Pair& block : blocks) release(block);
}

TEST(Allocator, ALimitRefusesWithoutAnyChange) {
  Allocator memory(Device::Cpu);
  void* const held = memory.allocate(3 << 20, Tag::Parameter);
  memory.set_limit(4 << 20);
  EXPECT_EQ(memory.limit(), std::size_t{4} << 20);
  const MemoryStats before = memory.stats();
  std::string message;
  try {
    memory.allocate((1 << 20) + 1, Tag::Workspace);
  } catch (const OutOfMemory& error) {
    message = error.what();
  }
  for (const char* part :
       {"cpu", "1.000 MiB for workspace", "3.000 MiB in use (parameter 3.000 MiB)", "the limit is 4.000 MiB"}) {
    EXPECT_NE(message.find(part), std::string::npos) << part << " is not in: " << message;
  }
  const MemoryStats after = memory.stats();
  EXPECT_EQ(after.live_by_tag, before.live_by_tag);
  EXPECT_EQ(after.peak, before.peak);
  EXPECT_EQ(after.reserved, before.reserved);
  EXPECT_EQ(after.system_calls, before.system_calls);
  EXPECT_THROW(memory.allocate(std::size_t{1} << 63, Tag::Data), OutOfMemory);
  void* const exactly = memory.allocate(1 << 20, Tag::Workspace);
  EXPECT_THROW(memory.allocate(1, Tag::Data), OutOfMemory);
  memory.set_limit(0);
  void* const beyond = memory.allocate(1 << 20, Tag::Data);
  memory.release(beyond, 1 << 20, Tag::Data);
  memory.release(exactly, 1 << 20, Tag::Workspace);
  memory.release(held, 3 << 20, Tag::Parameter);
}

TEST(Allocator, MoreThanTheMachineHasIsRefused) {
  Allocator memory(Device::Cpu);
  std::string message;
  try {
    memory.allocate(std::size_t{1} << 50, Tag::Activation);
  } catch (const OutOfMemory& error) {
    message = error.what();
  }
  EXPECT_NE(message.find("the device has no more"), std::string::npos) << message;
  EXPECT_EQ(memory.stats().live, 0U);
}

TEST(Allocator, PoisonFillsWhatIsReleased) {
#if defined(__SANITIZE_ADDRESS__)
  GTEST_SKIP() << "the sanitizer forbids reading what is released";
#endif
  Allocator memory(Device::Cpu);
  memory.set_poison(true);
  auto* const bytes = static_cast<unsigned char*>(memory.allocate(1000, Tag::Data));
  std::fill(bytes, bytes + 1000, static_cast<unsigned char>(7));
  memory.release(bytes, 1000, Tag::Data);
  for (std::size_t i = 0; i < 1000; ++i) ASSERT_EQ(bytes[i], 0xFF);
  memory.set_poison(false);
}

TEST(Allocator, ABufferMovesAndReturnsItsBytes) {
  Allocator& memory = allocator(Device::Cpu);
  const std::size_t before = memory.stats().live;
  Buffer a(Device::Cpu, 100, Tag::Data);
  Buffer b(Device::Cpu, 200, Tag::Optimiser);
  EXPECT_EQ(memory.stats().live, before + 300);
  b = std::move(a);
  EXPECT_EQ(memory.stats().live, before + 100);
  EXPECT_FALSE(a);  // NOLINT(bugprone-use-after-move): that it is empty is the point
  EXPECT_EQ(b.tag(), Tag::Data);
  b = Buffer();
  EXPECT_EQ(memory.stats().live, before);
}

TEST(Allocator, SaysBytesInWordsThatPeopleRead) {
  EXPECT_EQ(format_mebibytes(std::size_t{3} << 19), "1.500 MiB");
  EXPECT_EQ(format_mebibytes(std::size_t{1} << 30), "1024.0 MiB");
  TagBytes bytes{};
  EXPECT_EQ(format_tags(bytes), "nothing");
  bytes[static_cast<std::size_t>(Tag::Gradient)] = 1 << 20;
  bytes[static_cast<std::size_t>(Tag::Data)] = 2 << 20;
  EXPECT_EQ(format_tags(bytes), "gradient 1.000 MiB, data 2.000 MiB");
}

}  // namespace
}  // namespace palimpsest
