#include <palimpsest/core/cuda/kernels.hpp>
#include <palimpsest/core/fingerprint_lane.hpp>

namespace palimpsest::cuda {
namespace {

using namespace fingerprint_detail;

__device__ inline void add_to(Fingerprint* to, const Fingerprint& part) {
  static_assert(sizeof(unsigned long long) == sizeof(std::uint64_t));
  atomicAdd(reinterpret_cast<unsigned long long*>(&to->first), part.first);
  atomicAdd(reinterpret_cast<unsigned long long*>(&to->second), part.second);
}

/// A thread takes a lane of a piece, so that neighbours read neighbouring words. `units`: lanes of all pieces looked
/// at. Sums of integers are the same in any order, so that atomics are deterministic here.
__global__ void fingerprint_kernel(Index units, const unsigned char* data, std::uint64_t bytes, Sample sample,
                                   Fingerprint* to) {
  Fingerprint sum;
  for (Index unit = first_item(); unit < units; unit += item_step()) {
    const std::uint64_t piece = sample.first + static_cast<std::uint64_t>(unit) / lanes * sample.period;
    const std::uint64_t lane = static_cast<std::uint64_t>(unit) % lanes;
    const std::uint64_t begin = piece * fingerprint_piece + lane * word_bytes;
    const std::uint64_t end =
        bytes - piece * fingerprint_piece < fingerprint_piece ? bytes : (piece + 1) * fingerprint_piece;
    Lane gathered;
#pragma unroll 8
    for (std::uint64_t at = begin; at < end; at += lanes * word_bytes) {
      gathered.add(end - at >= word_bytes ? *reinterpret_cast<const std::uint64_t*>(data + at)
                                          : partial_word(data + at, end - at));
    }
    const Fingerprint part = contribution(gathered, piece * lanes + lane);
    sum.first += part.first;
    sum.second += part.second;
  }
  __shared__ std::uint64_t shared[2][gpu_geometry::block_threads];
  shared[0][threadIdx.x] = sum.first;
  shared[1][threadIdx.x] = sum.second;
  __syncthreads();
  for (unsigned step = gpu_geometry::block_threads / 2; step > 0; step /= 2) {
    if (threadIdx.x < step) {
      for (auto& sums : shared) sums[threadIdx.x] += sums[threadIdx.x + step];
    }
    __syncthreads();
  }
  if (threadIdx.x != 0) return;
  add_to(to, {shared[0][0], shared[1][0]});
  if (blockIdx.x == 0) add_to(to, contribution(bytes));
}

__global__ void compare_kernel(const Fingerprint* expected, Fingerprint* found, std::uint64_t check,
                               std::uint64_t* verdict) {
  const bool same = expected->first == found->first && expected->second == found->second;
  if (!same && *verdict == 0) *verdict = check;
  *found = {};
}

}  // namespace

void add_fingerprint(const void* data, std::size_t bytes, Sample sample, Fingerprint* to) {
  const Index units = static_cast<Index>(sample.pieces(bytes) * lanes);
  // A block even for nothing: the length counts.
  PALIMPSEST_LAUNCH(geometry(gpu_geometry::linear(units > 0 ? units : 1)), fingerprint_kernel, units,
                    static_cast<const unsigned char*>(data), std::uint64_t{bytes}, sample, to);
}

void compare_fingerprints(const Fingerprint* expected, Fingerprint* found, std::uint64_t check,
                          std::uint64_t* verdict) {
  const Geometry one{dim3(1), dim3(1)};
  PALIMPSEST_LAUNCH(one, compare_kernel, expected, found, check, verdict);
}

}  // namespace palimpsest::cuda
