#include <palimpsest/nn/optimiser.hpp>

namespace palimpsest::nn {

void Optimiser::set_state(std::span<const NamedTensor> state) { assign_by_name(this->state(), state); }

}  // namespace palimpsest::nn
