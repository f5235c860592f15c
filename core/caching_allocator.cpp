#include <algorithm>
#include <map>
#include <set>
#include <tuple>

#include <palimpsest/core/allocator.hpp>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

namespace palimpsest {
namespace {

std::size_t round_up(std::size_t bytes, std::size_t unit) { return (bytes + unit - 1) / unit * unit; }

}  // namespace

/// All memory taken, cut into blocks without gaps. `first_of_segment` marks where a block may not be joined to the one
/// before it, because the source did not return the two as one piece.
struct CachingAllocator::Blocks {
  struct Block {
    std::size_t bytes = 0;
    std::uint64_t piece = 0;  ///< the how-many-eth that was taken its first byte is of
    bool free = false;
    bool first_of_segment = false;
  };
  using Map = std::map<char*, Block>;
  /// Among blocks of a size the one that was taken first comes first. Pieces that stand alone have the addresses that
  /// the system likes, and which block serves a request is to follow from the requests only.
  using BySize = std::set<std::tuple<std::size_t, std::uint64_t, char*>>;

  Map by_address;
  BySize free_by_size;

  static BySize::value_type key(Map::iterator block) {
    return {block->second.bytes, block->second.piece, block->first};
  }

  void set_free(Map::iterator block) {
    block->second.free = true;
    free_by_size.insert(key(block));
  }

  void set_used(Map::iterator block) {
    block->second.free = false;
    free_by_size.erase(key(block));
  }

  /// The smallest free block of at least so many bytes, or the end.
  Map::iterator fit(std::size_t bytes) {
    const auto found = free_by_size.lower_bound({bytes, 0, nullptr});
    return found == free_by_size.end() ? by_address.end() : by_address.find(std::get<char*>(*found));
  }

  bool joins_previous(Map::iterator block) const {
    return block != by_address.begin() && !block->second.first_of_segment;
  }

  /// Joins a block that is in use (not in free_by_size) with its free neighbours and frees the result.
  void free_and_join(Map::iterator block) {
    const auto next = std::next(block);
    if (next != by_address.end() && next->second.free && joins_previous(next)) {
      set_used(next);
      block->second.bytes += next->second.bytes;
      by_address.erase(next);
    }
    if (joins_previous(block) && std::prev(block)->second.free) {
      const auto previous = std::prev(block);
      set_used(previous);
      previous->second.bytes += block->second.bytes;
      by_address.erase(block);
      block = previous;
    }
    set_free(block);
  }

  /// The end of the highest block, null if there is none.
  char* end() const {
    return by_address.empty() ? nullptr : by_address.rbegin()->first + by_address.rbegin()->second.bytes;
  }
};

CachingAllocator::CachingAllocator(std::unique_ptr<MemorySource> source)
    : blocks_(std::make_unique<Blocks>()), source_(std::move(source)) {}

CachingAllocator::~CachingAllocator() { release_cached(); }

void CachingAllocator::forbid([[maybe_unused]] const void* address, [[maybe_unused]] std::size_t bytes) const {
#if defined(__SANITIZE_ADDRESS__)
  if (source_->on_host()) __asan_poison_memory_region(address, bytes);
#endif
}

void CachingAllocator::permit([[maybe_unused]] const void* address, [[maybe_unused]] std::size_t bytes) const {
#if defined(__SANITIZE_ADDRESS__)
  if (source_->on_host()) __asan_unpoison_memory_region(address, bytes);
#endif
}

bool CachingAllocator::grow(std::size_t bytes, bool whole) {
  std::size_t missing = bytes;
  if (!whole && source_->granule() != 0 && !blocks_->by_address.empty() && blocks_->by_address.rbegin()->second.free) {
    missing -= std::min(missing, blocks_->by_address.rbegin()->second.bytes);
  }
  std::size_t granted = 0;
  ++system_calls_;
  char* const address = static_cast<char*>(source_->take(missing, granted));
  if (address == nullptr) return false;
  forbid(address, granted);
  reserved_ += granted;
  const bool continues = source_->granule() != 0 && blocks_->end() == address;
  const auto block =
      blocks_->by_address.emplace(address, Blocks::Block{granted, system_calls_, false, !continues}).first;
  blocks_->free_and_join(block);
  return true;
}

void* CachingAllocator::allocate(std::size_t asked) {
  const std::size_t bytes = round_up(std::max<std::size_t>(asked, 1), alignment);
  auto block = blocks_->fit(bytes);
  // Twice where the source, asked for what is missing at the end, answers with a piece that does not continue it.
  for (bool whole = false; block == blocks_->by_address.end(); whole = true) {
    if (!grow(bytes, whole)) {
      release_cached();
      if (!grow(bytes, true)) return nullptr;
    }
    block = blocks_->fit(bytes);
  }
  blocks_->set_used(block);
  if (block->second.bytes > bytes) {
    const Blocks::Block left{block->second.bytes - bytes, block->second.piece};
    const auto rest = blocks_->by_address.emplace(block->first + bytes, left).first;
    block->second.bytes = bytes;
    blocks_->set_free(rest);
  }
  permit(block->first, asked);  // to the byte: what rounding adds is nobody's
  return block->first;
}

void CachingAllocator::release(void* address) {
  const auto block = blocks_->by_address.find(static_cast<char*>(address));
  forbid(block->first, block->second.bytes);
  blocks_->free_and_join(block);
}

void CachingAllocator::release_cached() {
  auto& blocks = blocks_->by_address;
  const auto give = [&](char* address, std::size_t bytes) {
    permit(address, bytes);
    source_->give(address, bytes);
    reserved_ -= bytes;
  };
  // A free block that starts a segment and ends where the next one starts (or at the end) is a whole run of segments.
  for (auto block = blocks.begin(); block != blocks.end();) {
    const auto next = std::next(block);
    const bool whole = block->second.first_of_segment && (next == blocks.end() || next->second.first_of_segment);
    if (block->second.free && whole) {
      blocks_->set_used(block);
      give(block->first, block->second.bytes);
      blocks.erase(block);
    }
    block = next;
  }
  if (source_->granule() == 0 || blocks.empty() || !blocks.rbegin()->second.free) return;
  const auto last = std::prev(blocks.end());
  const std::size_t spare = last->second.bytes / source_->granule() * source_->granule();
  const std::size_t rest = last->second.bytes - spare;
  if (spare == 0) return;
  // The end of the range is a multiple of the granule, so its last `spare` bytes start at one.
  char* const address = last->first + rest;
  blocks_->set_used(last);
  if (rest > 0) {
    last->second.bytes = rest;
    blocks_->set_free(last);
  } else {
    blocks.erase(last);
  }
  give(address, spare);
}

}  // namespace palimpsest
