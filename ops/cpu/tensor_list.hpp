#pragma once

// The walk over many tensors as if they lay one after the other: most are tiny, a few hold nearly everything. For
// kernel files only.

#include <palimpsest/ops/cpu/rows.hpp>

namespace palimpsest::kernels::PALIMPSEST_ISA {
namespace {

/// Tasks of a walk at most.
constexpr std::int64_t max_list_tasks = 64;

/// Calls body(tensor, begin, end, task) for pieces [begin, end) of the tensors of a list, whose items have a `count`.
/// The pieces of a task come in order; tasks run in parallel and are numbered from 0, at most max_list_tasks of them.
/// The counts alone decide which piece belongs to which task.
template <class Listed, class Body>
inline void parallel_over_list(std::int64_t tensors, const Listed* list, const Body& body) {
  std::int64_t total = 0;
  for (std::int64_t i = 0; i < tensors; ++i) total += list[i].count;
  const std::int64_t block = larger(task_elements, ceil_div(total, max_list_tasks));
  parallel_blocks(total, block, [&](std::int64_t begin, std::int64_t end) {
    std::int64_t start = 0;
    for (std::int64_t i = 0; i < tensors && start < end; start += list[i++].count) {
      const std::int64_t from = larger(begin - start, 0);
      const std::int64_t to = smaller(end - start, list[i].count);
      if (from < to) body(list[i], from, to, begin / block);
    }
  });
}

/// Adds up term(i) for i in [begin, end), which is a double, in an order that no instruction set changes.
template <class Term>
inline double sum_of_terms(std::int64_t begin, std::int64_t end, const Term& term) {
  constexpr std::int64_t lanes = 32;
  double sums[lanes] = {};
  std::int64_t i = begin;
  for (; i + lanes <= end; i += lanes) {
    for (std::int64_t lane = 0; lane < lanes; ++lane) sums[lane] += term(i + lane);
  }
  for (; i < end; ++i) sums[0] += term(i);
  double total = 0;
  for (const double sum : sums) total += sum;
  return total;
}

}  // namespace
}  // namespace palimpsest::kernels::PALIMPSEST_ISA
