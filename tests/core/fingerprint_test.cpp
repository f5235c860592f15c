// Fingerprints: every bit counts, places count, the length counts, and they are the same whoever computes them.

#include <palimpsest/core/fingerprint.hpp>

#include <gtest/gtest.h>

#include <cstring>
#include <set>
#include <utility>
#include <vector>

#include <palimpsest/core/device.hpp>
#include <palimpsest/core/kernel.hpp>
#include <palimpsest/core/parallel.hpp>
#include <palimpsest/core/philox.hpp>
#include "tests/support/test_device.hpp"

namespace palimpsest::test {
namespace {

/// Random bytes, aligned as the allocator aligns.
class Bytes {
 public:
  explicit Bytes(std::size_t count) : count_(count), memory_(Device::Cpu, count, Tag::Data) {
    Random random(count, 5);
    for (std::size_t i = 0; i < count; ++i) (*this)[i] = static_cast<unsigned char>(random.bits());
  }
  unsigned char& operator[](std::size_t i) { return memory_.as<unsigned char>()[i]; }
  std::size_t size() const { return count_; }
  const void* data() const { return memory_.data(); }
  Fingerprint print(Sample sample = {}) const { return fingerprint(data(), count_, sample); }

 private:
  std::size_t count_;
  Buffer memory_;
};

/// As the device under test computes it.
Fingerprint on_device(const Bytes& bytes, Sample sample) {
  if (device() == Device::Cpu) return bytes.print(sample);
  const Buffer copy(Device::Cuda, bytes.size(), Tag::Data);
  copy_bytes(copy.data(), Device::Cuda, bytes.data(), Device::Cpu, bytes.size());
  const Buffer made(Device::Cuda, sizeof(Fingerprint), Tag::Data);
  zero_bytes(made.data(), Device::Cuda, sizeof(Fingerprint));
  if constexpr (compiled_for_cuda) cuda::add_fingerprint(copy.data(), bytes.size(), sample, made.as<Fingerprint>());
  Fingerprint found;
  copy_bytes(&found, Device::Cpu, made.data(), Device::Cuda, sizeof found);
  return found;
}

constexpr std::size_t piece = fingerprint_piece;
const std::vector<std::size_t> awkward_sizes = {0,
                                                1,
                                                3,
                                                4,
                                                7,
                                                8,
                                                9,
                                                63,
                                                64,
                                                65,
                                                127,
                                                piece - 1,
                                                piece,
                                                piece + 1,
                                                piece + 64,
                                                3 * piece + 20,
                                                40 * piece + 12,
                                                300 * piece};

TEST(FingerprintTest, AreTheSameOnAnyNumberOfThreads) {
  const int threads = thread_count();
  for (const std::size_t size : awkward_sizes) {
    const Bytes bytes(size);
    std::vector<Fingerprint> found;
    for (const int count : {1, 2, 3}) {
      set_thread_count(count);
      found.push_back(bytes.print());
      found.push_back(bytes.print({3, 7}));
    }
    EXPECT_EQ(found[2], found[0]) << size;
    EXPECT_EQ(found[4], found[0]) << size;
    EXPECT_EQ(found[3], found[1]) << size;
    EXPECT_EQ(found[5], found[1]) << size;
  }
  set_thread_count(threads);
}

TEST(FingerprintTest, AreTheSameOnEveryDevice) {
  for (const std::size_t size : awkward_sizes) {
    if (emulated() && size > 50 * piece) continue;
    const Bytes bytes(size);
    for (const Sample sample : {Sample{}, Sample{0, 31}, Sample{2, 3}, Sample{UINT64_MAX, 1}}) {
      EXPECT_EQ(on_device(bytes, sample), bytes.print(sample)) << size << " bytes, from " << sample.first;
    }
  }
}

// Worked out apart from this library, after the words of core/fingerprint_lane.hpp.
TEST(FingerprintTest, AreWhatTheirDefinitionSays) {
  const std::vector<std::uint64_t> words = {1, 2, 3};
  const Fingerprint found = fingerprint(words.data(), 20);
  EXPECT_EQ(found.first, 0xFCED82CDBE1C3EE8U);
  EXPECT_EQ(found.second, 0x58B84C7442E18FC7U);
}

TEST(FingerprintTest, EveryFlippedBitShows) {
  for (const std::size_t size : {std::size_t{1}, std::size_t{13}, std::size_t{65}, std::size_t{520}, 2 * piece + 100}) {
    Bytes bytes(size);
    const Fingerprint before = bytes.print();
    for (std::size_t bit = 0; bit<8 * size; bit += size> 1000 ? 37 : 1) {
      const auto mask = static_cast<unsigned char>(1U << bit % 8);
      bytes[bit / 8] ^= mask;
      const Fingerprint after = bytes.print();
      bytes[bit / 8] ^= mask;
      EXPECT_NE(after.first, before.first) << "bit " << bit << " of " << size << " bytes";
      EXPECT_NE(after.second, before.second) << "bit " << bit << " of " << size << " bytes";
    }
    EXPECT_EQ(bytes.print(), before);
  }
}

// Two flips that would cancel out in a sum or an exclusive or, anywhere in a lane or across lanes and pieces.
TEST(FingerprintTest, EveryPairOfFlippedSignsShows) {
  Bytes bytes(2 * piece);
  const Fingerprint before = bytes.print();
  for (const std::size_t first : {std::size_t{3}, std::size_t{7}, std::size_t{67}, piece - 1}) {
    for (std::size_t second = 3; second < bytes.size(); second += 4) {
      if (second == first) continue;
      bytes[first] ^= 0x80;
      bytes[second] ^= 0x80;
      EXPECT_NE(bytes.print(), before) << first << " and " << second;
      bytes[first] ^= 0x80;
      bytes[second] ^= 0x80;
    }
  }
}

TEST(FingerprintTest, PlacesCount) {
  for (const std::size_t size : {std::size_t{8}, std::size_t{64}, std::size_t{512}, piece}) {
    for (std::size_t distance = size; distance <= 3 * piece; distance *= 2) {
      Bytes bytes(distance + size);
      const Fingerprint before = bytes.print();
      for (std::size_t i = 0; i < size; ++i) std::swap(bytes[i], bytes[distance + i]);
      EXPECT_NE(bytes.print(), before) << size << " bytes, " << distance << " apart";
    }
  }
}

TEST(FingerprintTest, TrailingZerosCount) {
  Bytes bytes(2 * piece);
  std::memset(&bytes[0], 0, bytes.size());
  std::set<std::uint64_t> found;
  for (std::size_t size = 0; size <= bytes.size(); ++size) found.insert(fingerprint(bytes.data(), size).first);
  EXPECT_EQ(found.size(), bytes.size() + 1);
}

TEST(FingerprintTest, ASampleSeesItsPiecesAndNoOthers) {
  constexpr std::size_t pieces = 23;
  Bytes bytes(pieces * piece - 5);
  for (const std::uint64_t period : {1, 5, 31}) {
    std::uint64_t seen = 0;
    for (std::uint64_t first = 0; first < period; ++first) {
      const Sample sample{first, period};
      seen += sample.pieces(bytes.size());
      const Fingerprint before = bytes.print(sample);
      for (std::size_t i = 0; i < pieces; ++i) {
        bytes[i * piece + 100] ^= 1;
        EXPECT_EQ(bytes.print(sample) == before, i % period != first);
        bytes[i * piece + 100] ^= 1;
      }
    }
    EXPECT_EQ(seen, pieces);
  }
}

}  // namespace
}  // namespace palimpsest::test
