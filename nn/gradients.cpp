#include <palimpsest/nn/gradients.hpp>

#include <algorithm>
#include <cmath>
#include <string>
#include <unordered_map>
#include <unordered_set>

#include <palimpsest/core/error.hpp>
#include <palimpsest/ops/tensor_list.hpp>

namespace palimpsest::nn {
namespace {

/// Gradients and the names of their parameters, each once.
struct Gradients {
  std::vector<const std::string*> names;
  std::vector<Tensor> tensors;
};

Gradients gradients_of(std::span<const NamedTensor> parameters) {
  Gradients all;
  std::unordered_set<const Value*> seen;
  for (const auto& [name, parameter] : parameters) {
    if (!seen.insert(&parameter.value()).second) continue;
    Tensor gradient = parameter.grad();
    if (!gradient) continue;
    all.names.push_back(&name);
    all.tensors.push_back(std::move(gradient));
  }
  return all;
}

/// Says of the first gradient that is not finite where it is not; nothing if all are.
template <class T>
void refuse_first_of(const Gradients& gradients) {
  for (std::size_t i = 0; i < gradients.tensors.size(); ++i) {
    const std::vector<T> values = gradients.tensors[i].to_vector<T>();
    const auto finite = [](T value) { return std::isfinite(value); };
    const auto found = std::find_if_not(values.begin(), values.end(), finite);
    if (found == values.end()) continue;
    const auto others = values.end() - found - 1 - std::count_if(found + 1, values.end(), finite);
    throw NonFiniteError(concat_text("the gradient of ", *gradients.names[i], " ", gradients.tensors[i].shape(), " is ",
                                     *found, " at element ", found - values.begin(), ", and ", others,
                                     " more of its elements are not finite"));
  }
}

/// Gradients are read one by one only where their norm says that there is something to find.
void require_finite(const Gradients& gradients, double norm) {
  if (std::isfinite(norm)) return;
  if (gradients.tensors[0].dtype() == Dtype::Float32) return refuse_first_of<float>(gradients);
  refuse_first_of<double>(gradients);
}

void require_bound(double bound, const char* name, bool may_be_none) {
  if ((bound > 0 || (may_be_none && bound == 0)) && std::isfinite(bound)) return;
  throw ValueError(concat_text("gradients: ", name, " is ", bound, ", expected a number above 0",
                               may_be_none ? ", or 0 for none" : ""));
}

/// A norm that has overflowed has no share in the bound, so that nothing is scaled by it.
void scale_to(double max_norm, const Gradients& gradients, double norm) {
  if (norm > max_norm && std::isfinite(norm)) ops::scale_all(gradients.tensors, max_norm / norm);
}

}  // namespace

double gradient_norm(std::span<const NamedTensor> parameters) { return ops::l2_norm(gradients_of(parameters).tensors); }

void check_gradients(std::span<const NamedTensor> parameters) {
  const Gradients gradients = gradients_of(parameters);
  require_finite(gradients, ops::l2_norm(gradients.tensors));
}

double clip_gradient_norm(std::span<const NamedTensor> parameters, double max_norm) {
  require_bound(max_norm, "the largest norm", false);
  const Gradients gradients = gradients_of(parameters);
  const double norm = ops::l2_norm(gradients.tensors);
  require_finite(gradients, norm);
  scale_to(max_norm, gradients, norm);
  return norm;
}

void clip_gradient_value(std::span<const NamedTensor> parameters, double max_value) {
  require_bound(max_value, "the largest value", false);
  ops::clamp_all(gradients_of(parameters).tensors, max_value);
}

GradientGuard::GradientGuard(std::vector<NamedTensor> parameters, const GradientOptions& options)
    : parameters_(std::move(parameters)), options_(options) {
  require_bound(options.clip_value, "clip_value", true);
  require_bound(options.clip_norm, "clip_norm", true);
}

void GradientGuard::operator()(std::span<const LeafGradient> found) const {
  if (!options_.check_finite && options_.clip_value == 0 && options_.clip_norm == 0) return;
  std::unordered_map<const Value*, const Tensor*> by_leaf;
  for (const LeafGradient& one : found) by_leaf.emplace(one.leaf, &one.gradient);
  Gradients gradients;
  for (const auto& [name, parameter] : parameters_) {
    const auto entry = by_leaf.extract(&parameter.value());  // a parameter that is listed twice is met once
    if (entry.empty()) continue;
    gradients.names.push_back(&name);
    gradients.tensors.push_back(*entry.mapped());
  }
  const bool clips_values = options_.clip_value > 0;
  double norm = 0;
  if (options_.check_finite || !clips_values) {
    norm = ops::l2_norm(gradients.tensors);
    if (options_.check_finite) require_finite(gradients, norm);
  }
  if (clips_values) ops::clamp_all(gradients.tensors, options_.clip_value);
  if (options_.clip_norm == 0) return;
  if (clips_values) norm = ops::l2_norm(gradients.tensors);
  scale_to(options_.clip_norm, gradients, norm);
}

}  // namespace palimpsest::nn
