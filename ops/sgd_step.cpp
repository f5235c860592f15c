#include <palimpsest/ops/sgd_step.hpp>

#include <palimpsest/ops/check.hpp>
#include <palimpsest/ops/kernels/sgd.hpp>

namespace palimpsest::ops {

void sgd_step(std::span<const SgdUpdate> updates, const SgdStepOptions& spec) {
  if (updates.empty()) return;
  const Tensor& first = updates[0].parameter;
  std::vector<View> parameters;
  for (const SgdUpdate& update : updates) parameters.push_back(update.parameter.mutable_view());
  run_kernels("sgd", first.device(), first.dtype(), [&]<class T>(T) {
    std::vector<kernels::SgdTensor<T>> list;
    for (std::size_t i = 0; i < updates.size(); ++i) {
      const SgdUpdate& update = updates[i];
      T* const velocity = update.velocity ? update.velocity.mutable_view().as<T>() : nullptr;
      list.push_back({update.parameter.shape().count(), parameters[i].as<T>(), update.gradient.view().as<T>(), velocity,
                      update.weight_decay, false});
    }
    const kernels::SgdOptions step{spec.learning_rate, spec.momentum, spec.nesterov};
    PALIMPSEST_RUN(first.device(), sgd_step<T>(static_cast<std::int64_t>(list.size()), list.data(), step));
  });
}

}  // namespace palimpsest::ops
