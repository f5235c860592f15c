#include <palimpsest/nn/module.hpp>

#include <algorithm>
#include <unordered_set>

#include <palimpsest/core/device.hpp>
#include <palimpsest/core/hash.hpp>

namespace palimpsest::nn {
namespace {

/// Visits the nodes that a backward from `outputs` would run.
template <class Visit>
void for_each_node(std::span<const Tensor> outputs, const Visit& visit) {
  std::vector<const Node*> pending;
  std::unordered_set<const Node*> seen;
  const auto reach = [&](const Value& value) {
    const Node* const node = value.producer();
    if (node != nullptr && seen.insert(node).second) pending.push_back(node);
  };
  for (const Tensor& output : outputs) reach(output.value());
  while (!pending.empty()) {
    const Node& node = *pending.back();
    pending.pop_back();
    visit(node);
    for (const ValuePtr& input : node.inputs) reach(*input);
  }
}

}  // namespace

Module::Module(Scope scope) : scope_(scope), info_(std::make_shared<BlockInfo>()) {
  if (scope == Scope::Model) info_->name = "model";
}

template <class Self, class Visit>
void Module::visit(Self& module, const std::string& path, const Visit& visit) {
  visit(module, path);
  for (const Part& part : module.parts_) {
    Self& next = *part.module;
    Module::visit(next, path + part.name + ".", visit);
  }
}

template <class Tensors>
std::vector<NamedTensor> Module::collect(Tensors Module::*tensors) const {
  std::vector<NamedTensor> all;
  visit(*this, "", [&](const Module& module, const std::string& path) {
    for (const NamedTensor& one : module.*tensors) all.push_back({path + one.name, one.tensor});
  });
  return all;
}

std::vector<NamedTensor> Module::parameters() const { return collect(&Module::parameters_); }
std::vector<NamedTensor> Module::buffers() const { return collect(&Module::buffers_); }

std::int64_t Module::parameter_count() const {
  std::int64_t count = 0;
  for (const NamedTensor& parameter : parameters()) count += parameter.tensor.shape().count();
  return count;
}

void Module::train(bool on) {
  visit(*this, "", [&](Module& module, const std::string&) { module.training_ = on; });
}

void Module::set_memory(const PolicyPtr& policy) {
  const PolicyPtr rest = policy != nullptr && policy->covers_the_rest() ? policy : nullptr;
  visit(*this, "", [&](Module& module, const std::string&) {
    if (module.scope_ != Scope::None) module.info_->policy = module.scope_ == Scope::Block ? policy : rest;
  });
}

void Module::set_memory(std::span<const PolicyPtr> policies) {
  const std::size_t blocks = block_names().size();
  if (policies.size() != blocks) {
    throw ValueError(concat_text("set_memory: ", policies.size(), " policies for ", blocks, " blocks"));
  }
  auto policy = policies.begin();
  visit(*this, "", [&](Module& module, const std::string&) {
    if (module.scope_ != Scope::None) module.info_->policy = module.scope_ == Scope::Block ? *policy++ : nullptr;
  });
}

std::vector<std::string> Module::block_names() const {
  std::vector<std::string> names;
  visit(*this, "", [&](const Module& module, const std::string&) {
    if (module.scope_ == Scope::Block) names.push_back(module.info_->name);
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

void Module::check_registered(std::span<const Tensor> outputs, std::span<const Tensor> inputs) const {
  std::unordered_set<const Value*> known;
  for (const auto& [name, parameter] : parameters()) known.insert(&parameter.value());
  for (const Tensor& input : inputs) known.insert(&input.value());
  const BlockScope step(nullptr, outputs);  // an exception fails the step
  for_each_node(outputs, [&](const Node& node) {
    for (const ValuePtr& input : node.inputs) {
      if (!input->leaf() || !input->requires_grad() || known.contains(input.get())) continue;
      throw ValueError(concat_text("[", node.op->name(), "] reads a parameter ", input->shape(),
                                   " that the model does not have: call add_module() for the module that has it"));
    }
  });
}

std::vector<Tensor> Module::trained_inputs(const std::vector<Tensor>& inputs) {
  std::vector<Tensor> trained;
  std::copy_if(inputs.begin(), inputs.end(), std::back_inserter(trained),
               [](const Tensor& input) { return input && input.value().leaf() && input.requires_grad_on(); });
  return trained;
}

void Module::check_name(std::string_view kind, const std::string& name) const {
  const std::string path = "." + name + ".";
  if (path.find("..") != std::string::npos) {
    throw ValueError(concat_text(kind, " '", name, "': expected a name, or names with a dot between them"));
  }
  const auto check = [&](std::string_view other_kind, const std::string& other) {
    const std::string other_path = "." + other + ".";
    if (!path.starts_with(other_path) && !other_path.starts_with(path)) return;
    throw ValueError(concat_text(kind, " '", name, "' in a module that has a ", other_kind, " '", other, "'"));
  };
  for (const NamedTensor& parameter : parameters_) check("parameter", parameter.name);
  for (const NamedTensor& buffer : buffers_) check("buffer", buffer.name);
  for (const Part& part : parts_) check("part", part.name);
}

Tensor Module::add_parameter(std::string name, Tensor tensor) {
  check_name("parameter", name);
  tensor.requires_grad();
  parameters_.push_back({std::move(name), tensor});
  return tensor;
}

Tensor Module::add_buffer(std::string name, Tensor tensor) {
  check_name("buffer", name);
  buffers_.push_back({std::move(name), tensor});
  return tensor;
}

void Module::add_module(std::string name, Module& part) {
  check_name("part", name);
  if (part.registered_) throw ValueError(concat_text("part '", name, "' is a part of a module already"));
  part.registered_ = true;
  part.prefix_block_names(name);
  parts_.push_back({std::move(name), &part});
}

void Module::prefix_block_names(const std::string& prefix) {
  visit(*this, "", [&](Module& module, const std::string&) {
    if (module.scope_ != Scope::Block) return;
    std::string& name = module.info_->name;
    name = name.empty() ? prefix : prefix + "." + name;
  });
}

}  // namespace palimpsest::nn
