#pragma once

// Tensors that are one along their channels, as a kernel takes them: a table that travels as a kernel parameter.

#include <cstdint>

#include <palimpsest/core/cuda/kernels.hpp>

namespace palimpsest::cuda {

/// The tensors of one launch. More take several launches.
inline constexpr int max_parts = 128;

/// Part: a struct of pointers and flags with a member `channels`. Extents are counted in packs.
template <class Part>
struct Parts {
  int count = 0;
  Index first[max_parts];  // where the part begins in the whole
  Part parts[max_parts];

  /// The part that has this group of the whole's channels.
  __device__ int holding(Index group) const {
    int part = 0;
    while (part + 1 < count && first[part + 1] <= group) ++part;
    return part;
  }
};

/// Calls body(std::integral_constant<int, Width>) with the pack width for rows of every part and of the whole.
/// part_at(Index) gives a part, its channels counted in elements.
template <class T, class PartAt, class Body>
void with_width_of(Index count, const PartAt& part_at, const Body& body) {
  constexpr Index widest = 16 / static_cast<Index>(sizeof(T));
  Index divisible = widest;
  for (Index i = 0; i < count; ++i) {
    if (part_at(i).channels % widest != 0) divisible = 1;
  }
  with_width<T>(divisible, body);
}

/// Calls launch(parts, begin, end) for runs of at most max_parts tensors; [begin, end) are their channels in the whole,
/// in packs of `width` elements. A run ends before a part for which may_join(parts, part) is false. Tensors without
/// channels are left out.
template <class PartAt, class MayJoin, class Launch>
void for_each_run(int width, Index count, const PartAt& part_at, const MayJoin& may_join, const Launch& launch) {
  using Part = decltype(part_at(Index{0}));
  Index offset = 0;
  for (Index next = 0; next < count;) {
    Parts<Part> parts = {};
    const Index begin = offset;
    for (; next < count && parts.count < max_parts; ++next) {
      Part part = part_at(next);
      if (part.channels == 0) continue;
      if (!may_join(parts, part)) break;
      part.channels /= width;
      parts.first[parts.count] = offset;
      parts.parts[parts.count] = part;
      offset += part.channels;
      ++parts.count;
    }
    if (parts.count > 0) launch(parts, begin, offset);
  }
}

}  // namespace palimpsest::cuda
