#include <palimpsest/nn/module.hpp>

#include <palimpsest/core/device.hpp>
#include <palimpsest/core/hash.hpp>

namespace palimpsest::nn {

template <class Visit>
void Module::visit(const std::string& path, const Visit& visit) {
  visit(*this, path);
  for (const Part& part : parts_) part.module->Module::visit(path + part.name + ".", visit);
}

std::vector<NamedTensor> Module::parameters() const {
  std::vector<NamedTensor> all;
  const_cast<Module*>(this)->visit("", [&](Module& module, const std::string& path) {
    for (const NamedTensor& parameter : module.parameters_) all.push_back({path + parameter.name, parameter.tensor});
  });
  return all;
}

std::vector<NamedTensor> Module::buffers() const {
  std::vector<NamedTensor> all;
  const_cast<Module*>(this)->visit("", [&](Module& module, const std::string& path) {
    for (const NamedTensor& buffer : module.buffers_) all.push_back({path + buffer.name, buffer.tensor});
  });
  return all;
}

std::int64_t Module::parameter_count() const {
  std::int64_t count = 0;
  for (const NamedTensor& parameter : parameters()) count += parameter.tensor.shape().count();
  return count;
}

void Module::train(bool on) {
  visit("", [&](Module& module, const std::string&) { module.training_ = on; });
}

void Module::set_memory(const PolicyPtr& policy) {
  visit("", [&](Module& module, const std::string&) {
    if (BlockInfo* const info = module.block_info()) info->policy = policy;
    if (BlockInfo* const rest = module.rest_info()) {
      rest->policy = policy != nullptr && policy->covers_the_rest() ? policy : nullptr;
    }
  });
}

void Module::set_memory(std::span<const PolicyPtr> policies) {
  const std::size_t blocks = block_names().size();
  if (policies.size() != blocks) {
    throw ValueError(concat_text("set_memory: ", policies.size(), " policies for ", blocks, " blocks"));
  }
  auto policy = policies.begin();
  visit("", [&](Module& module, const std::string&) {
    if (BlockInfo* const info = module.block_info()) info->policy = *policy++;
    if (BlockInfo* const rest = module.rest_info()) rest->policy = nullptr;
  });
}

std::vector<std::string> Module::block_names() const {
  std::vector<std::string> names;
  const_cast<Module*>(this)->visit("", [&](Module& module, const std::string&) {
    if (const BlockInfo* const info = module.block_info()) names.push_back(info->name);
  });
  return names;
}

std::string Module::state_digest() const {
  Hash128 hash;
  const auto add = [&](const std::vector<NamedTensor>& tensors) {
    for (const auto& [name, tensor] : tensors) {
      std::vector<std::byte> bytes(tensor.value().bytes());
      copy_bytes(bytes.data(), Device::Cpu, tensor.view().data, tensor.device(), bytes.size());
      hash.add(bytes.data(), bytes.size());
    }
  };
  add(parameters());
  add(buffers());
  return hash.hex();
}

Tensor Module::add_parameter(std::string name, Tensor tensor) {
  tensor.requires_grad();
  parameters_.push_back({std::move(name), tensor});
  return tensor;
}

Tensor Module::add_buffer(std::string name, Tensor tensor) {
  buffers_.push_back({std::move(name), tensor});
  return tensor;
}

void Module::add_module(std::string name, Module& part) {
  part.prefix_block_names(name);
  parts_.push_back({std::move(name), &part});
}

void Module::prefix_block_names(const std::string& prefix) {
  visit("", [&](Module& module, const std::string&) {
    BlockInfo* const info = module.block_info();
    if (info != nullptr) info->name = info->name.empty() ? prefix : prefix + "." + info->name;
  });
}

}  // namespace palimpsest::nn
