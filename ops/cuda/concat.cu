// Joining and parting channels. A thread keeps one pack of the whole's channels, so it looks for the part that holds it
// once; neighbours in a block write (or read) neighbours of the whole.

#include <algorithm>

#include <palimpsest/core/cuda/kernels.hpp>
#include <palimpsest/ops/cuda/parts.hpp>
#include <palimpsest/ops/kernels/concat.hpp>

namespace palimpsest::kernels::gpu {
namespace {

using namespace palimpsest::cuda;

template <class Pointer>
struct Part {
  Pointer data;
  Index channels;
  bool accumulate;
};

template <int Width, class T>
__global__ void gather_kernel(Index rows, Index begin, Index end, Index whole,
                              const __grid_constant__ Parts<Part<const T*>> parts, T* y) {
  const Index group = begin + row_group();
  if (group >= end) return;
  const int index = parts.holding(group);
  const Part<const T*>& part = parts.parts[index];
  const T* const from = part.data + (group - parts.first[index]) * Width;
  for (Index row = first_row(); row < rows; row += row_step()) {
    store(y + (row * whole + group) * Width, load<Width>(from + row * part.channels * Width));
  }
}

template <int Width, class T>
__global__ void scatter_kernel(Index rows, Index begin, Index end, Index whole,
                               const __grid_constant__ Parts<Part<T*>> parts, const T* dy) {
  const Index group = begin + row_group();
  if (group >= end) return;
  const int index = parts.holding(group);
  const Part<T*>& part = parts.parts[index];
  if (part.data == nullptr) return;
  T* const to = part.data + (group - parts.first[index]) * Width;
  for (Index row = first_row(); row < rows; row += row_step()) {
    store(to + row * part.channels * Width, load<Width>(dy + (row * whole + group) * Width), part.accumulate);
  }
}

/// True if a part would be written by two threads of one launch: a tensor that is joined with itself.
template <class T>
bool is_written_already(const Parts<Part<T*>>& parts, T* data) {
  if (data == nullptr) return false;
  return std::any_of(parts.parts, parts.parts + parts.count, [&](const Part<T*>& part) { return part.data == data; });
}

Index sum_of(Index count, const Index* channels) {
  Index sum = 0;
  for (Index i = 0; i < count; ++i) sum += channels[i];
  return sum;
}

}  // namespace

template <class T>
void concat_gather(std::int64_t rows, std::int64_t count, const T* const* inputs, const std::int64_t* channels, T* y) {
  const Index all = sum_of(count, channels);
  const auto part_at = [&](Index i) { return Part<const T*>{inputs[i], channels[i], false}; };
  const auto may_join = [](const auto&, const auto&) { return true; };
  with_width_of<T>(count, part_at, [&](auto width) {
    for_each_run(width(), count, part_at, may_join, [&](const auto& parts, Index begin, Index end) {
      PALIMPSEST_LAUNCH(geometry(gpu_geometry::rows(rows, end - begin)), (gather_kernel<width(), T>), rows, begin, end,
                        all / width(), parts, y);
    });
  });
}

template <class T>
void concat_scatter(std::int64_t rows, std::int64_t count, const T* dy, T* const* outputs, const std::int64_t* channels,
                    const bool* accumulate) {
  const Index all = sum_of(count, channels);
  const auto part_at = [&](Index i) { return Part<T*>{outputs[i], channels[i], accumulate[i]}; };
  const auto may_join = [](const auto& parts, const Part<T*>& part) { return !is_written_already(parts, part.data); };
  with_width_of<T>(count, part_at, [&](auto width) {
    for_each_run(width(), count, part_at, may_join, [&](const auto& parts, Index begin, Index end) {
      PALIMPSEST_LAUNCH(geometry(gpu_geometry::rows(rows, end - begin)), (scatter_kernel<width(), T>), rows, begin, end,
                        all / width(), parts, dy);
    });
  });
}

PALIMPSEST_CONCAT_KERNELS(float)
PALIMPSEST_CONCAT_KERNELS(double)

}  // namespace palimpsest::kernels::gpu
