#pragma once

#include <memory>

#include <palimpsest/autograd/tensor.hpp>
#include <palimpsest/core/generator.hpp>

namespace palimpsest::ops {

/// Dropout in training (Srivastava et al. 2014): each element is zeroed with `probability`, the others scaled by
/// 1 / (1 - probability). The mask is a function of the generator's seed and counter, so nothing of it is stored: the
/// counter is reserved in the first forward, used again on replay and in backward, and put back if the step fails.
/// Throws ValueError unless 0 <= probability < 1 and there is a generator, DtypeError.
Tensor dropout(Tensor x, double probability, std::shared_ptr<Generator> generator);

}  // namespace palimpsest::ops
