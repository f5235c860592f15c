#pragma once

// How far the streams of a RevNet come back from what they were: measured by a policy that looks over the shoulder of
// `reversible`.

#include <cstddef>
#include <vector>

#include <palimpsest/nn/models/revnet.hpp>

namespace palimpsest::test {

/// The errors of the stream elements that a stage of a network had solved for.
struct StageDrift {
  std::size_t elements = 0;
  std::size_t same = 0;      ///< those that came back to the bit
  double largest_error = 0;  ///< the largest difference, relative to the largest element of its stream

  double same_fraction() const { return static_cast<double>(same) / static_cast<double>(elements); }
};

/// The drift of every stage over `steps` training steps (float32) on fixed random images of `size` x `size` pixels.
std::vector<StageDrift> reversal_drift(const nn::ResidualOptions& spec, std::int64_t batch, std::int64_t size,
                                       int steps = 1);

}  // namespace palimpsest::test
