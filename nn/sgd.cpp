#include <palimpsest/nn/sgd.hpp>

#include <algorithm>
#include <unordered_set>

#include <palimpsest/nn/gradients.hpp>
#include <palimpsest/ops/sgd_step.hpp>

namespace palimpsest::nn {
namespace {

void require_number(double value, const char* name) {
  if (!(value >= 0) || value > 1e30)
    throw ValueError(concat_text("SGD: ", name, " is ", value, ", expected a number of at least 0"));
}

}  // namespace

Sgd::Sgd(std::vector<NamedTensor> parameters, const SgdOptions& spec) : spec_(spec) {
  require_number(spec.learning_rate, "learning rate");
  require_number(spec.momentum, "momentum");
  require_number(spec.weight_decay, "weight decay");
  if (spec.nesterov && spec.momentum == 0) throw ValueError("SGD: Nesterov momentum needs a momentum above 0");
  std::unordered_set<const Value*> seen;
  for (const auto& [name, parameter] : parameters) {
    if (!seen.insert(&parameter.value()).second) continue;
    const Tensor& first = parameters.front().tensor;
    if (parameter.dtype() != first.dtype()) {
      throw DtypeError(concat_text("SGD: ", name, " is ", parameter.dtype(), ", expected ", first.dtype(), " like ",
                                   parameters.front().name));
    }
    if (parameter.device() != first.device()) {
      throw DeviceError(concat_text("SGD: ", name, " is on ", parameter.device(), ", expected ", first.device(),
                                    " like ", parameters.front().name));
    }
    const bool decays = spec.decay_norm_and_bias || parameter.shape().rank() > 1;
    slots_.push_back({name, parameter, {}, decays ? spec.weight_decay : 0.0});
  }
}

void Sgd::set_learning_rate(double rate) {
  require_number(rate, "learning rate");
  spec_.learning_rate = rate;
}

void Sgd::zero_grad() {
  for (const Slot& slot : slots_) slot.parameter.zero_grad();
}

std::vector<NamedTensor> Sgd::state() const {
  std::vector<NamedTensor> velocities;
  for (const Slot& slot : slots_) {
    if (slot.velocity) velocities.push_back({slot.name + ".velocity", slot.velocity});
  }
  return velocities;
}

void Sgd::set_state(std::span<const NamedTensor> state) {
  std::vector<NamedTensor> places;
  for (const Slot& slot : slots_) {
    if (spec_.momentum == 0) break;
    const std::string name = slot.name + ".velocity";
    const auto is_named = [&](const NamedTensor& one) { return one.name == name; };
    if (std::none_of(state.begin(), state.end(), is_named)) continue;
    places.push_back({name, slot.velocity ? slot.velocity : make_velocity(slot)});
  }
  assign_by_name(places, state);
  auto place = places.begin();
  for (Slot& slot : slots_) {
    if (place != places.end() && place->name == slot.name + ".velocity") slot.velocity = (place++)->tensor;
  }
}

Tensor Sgd::make_velocity(const Slot& slot) {
  const Tensor& like = slot.parameter;
  return Tensor::zeros(like.shape(), like.dtype(), like.device(), Tag::Optimiser);
}

void Sgd::allocate_velocities() {
  if (spec_.momentum == 0) return;
  std::vector<std::pair<Slot*, Tensor>> made;
  for (Slot& slot : slots_) {
    if (slot.velocity || !slot.parameter.grad()) continue;
    made.emplace_back(&slot, make_velocity(slot));
  }
  for (auto& [slot, velocity] : made) slot->velocity = std::move(velocity);
}

void Sgd::step() {
  if (spec_.check_finite) {
    std::vector<NamedTensor> parameters;
    for (const Slot& slot : slots_) parameters.push_back({slot.name, slot.parameter});
    check_gradients(parameters);
  }
  allocate_velocities();
  std::vector<ops::SgdUpdate> updates;
  for (const Slot& slot : slots_) {
    const Tensor gradient = slot.parameter.grad();
    if (gradient) updates.push_back({slot.parameter, gradient, slot.velocity, slot.weight_decay});
  }
  ops::sgd_step(updates, {spec_.learning_rate, spec_.momentum, spec_.nesterov});
}

}  // namespace palimpsest::nn
