#include <palimpsest/core/fingerprint.hpp>

#include <algorithm>
#include <atomic>
#include <cstring>

#include <palimpsest/core/fingerprint_lane.hpp>
#include <palimpsest/core/parallel.hpp>

namespace palimpsest {
namespace {

using namespace fingerprint_detail;

std::uint64_t load_word(const unsigned char* from) {
  std::uint64_t word = 0;
  std::memcpy(&word, from, sizeof word);
  return word;
}

/// The contribution of a piece, whose first lane has this number in the whole sequence.
Fingerprint of_piece(const unsigned char* data, std::size_t bytes, std::uint64_t first_lane) {
  Lane gathered[lanes];
  std::size_t at = 0;
  for (; at + lanes * word_bytes <= bytes; at += lanes * word_bytes) {
    for (std::size_t l = 0; l < lanes; ++l) gathered[l].add(load_word(data + at + l * word_bytes));
  }
  for (std::size_t l = 0; at < bytes; ++l, at += word_bytes) {
    gathered[l].add(partial_word(data + at, std::min<std::size_t>(word_bytes, bytes - at)));
  }
  Fingerprint sum;
  for (std::size_t l = 0; l < lanes; ++l) {
    const Fingerprint part = contribution(gathered[l], first_lane + l);
    sum.first += part.first;
    sum.second += part.second;
  }
  return sum;
}

}  // namespace

Fingerprint fingerprint(const void* data, std::size_t bytes, Sample sample) {
  constexpr std::uint64_t task_pieces = 128;  // less is not worth waking another thread for
  const auto* const octets = static_cast<const unsigned char*>(data);
  const std::uint64_t pieces = sample.pieces(bytes);
  const Fingerprint of_length = contribution(bytes);
  std::atomic<std::uint64_t> first = of_length.first;
  std::atomic<std::uint64_t> second = of_length.second;
  parallel_for(static_cast<std::int64_t>((pieces + task_pieces - 1) / task_pieces), [&](std::int64_t task) {
    const std::uint64_t begin = static_cast<std::uint64_t>(task) * task_pieces;
    Fingerprint sum;
    for (std::uint64_t i = begin; i < std::min(pieces, begin + task_pieces); ++i) {
      const std::uint64_t piece = sample.first + i * sample.period;
      const std::size_t at = piece * fingerprint_piece;
      const Fingerprint part = of_piece(octets + at, std::min(fingerprint_piece, bytes - at), piece * lanes);
      sum.first += part.first;
      sum.second += part.second;
    }
    first.fetch_add(sum.first, std::memory_order_relaxed);
    second.fetch_add(sum.second, std::memory_order_relaxed);
  });
  return {first.load(), second.load()};
}

}  // namespace palimpsest
