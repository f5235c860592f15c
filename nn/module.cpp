#include <palimpsest/nn/module.hpp>

#include <fnmatch.h>

#include <algorithm>
#include <unordered_map>
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
  for (const Tensor& output : outputs) {
    if (output) reach(output.value());
  }
  while (!pending.empty()) {
    const Node& node = *pending.back();
    pending.pop_back();
    visit(node);
    for (const ValuePtr& input : node.inputs) reach(*input);
  }
}

}  // namespace

void assign_by_name(std::span<const NamedTensor> to, std::span<const NamedTensor> from) {
  std::unordered_map<std::string_view, const Tensor*> places;
  for (const auto& [name, tensor] : to) places.emplace(name, &tensor);
  for (const auto& [name, tensor] : from) {
    const auto place = places.find(name);
    if (place == places.end()) throw ValueError(concat_text("'", name, "' is not among the ", to.size(), " tensors"));
    const Tensor& old = *place->second;
    if (tensor.shape() != old.shape()) {
      throw ShapeError(concat_text("'", name, "' is ", tensor.shape(), ", expected ", old.shape()));
    }
    if (tensor.dtype() != old.dtype()) {
      throw DtypeError(concat_text("'", name, "' is ", tensor.dtype(), ", expected ", old.dtype()));
    }
  }
  for (const auto& [name, tensor] : from) Tensor(*places.at(name)).assign(tensor);
}

Module::Module(Scope scope) : scope_(scope), info_(std::make_shared<BlockInfo>()), in_a_model_(scope == Scope::Model) {
  info_->model = scope == Scope::Model;
  if (info_->model) info_->name = "model";
}

/// Calls visit(module, path) for every module once, with its first path.
template <class Self, class Visit>
void Module::visit(Self& module, const Visit& visit) {
  std::unordered_set<const Module*> seen;
  const auto walk = [&](Self& here, const std::string& path, const auto& self) -> void {
    if (!seen.insert(&here).second) return;
    visit(here, path);
    for (const Part& part : here.parts_) {
      Self& next = *part.module;
      self(next, path.empty() ? part.name : path + "." + part.name, self);
    }
  };
  walk(module, "", walk);
}

template <class Tensors>
std::vector<NamedTensor> Module::collect(Tensors Module::*tensors) const {
  std::vector<NamedTensor> all;
  std::unordered_set<const Value*> seen;
  visit(*this, [&](const Module& module, const std::string& path) {
    for (const NamedTensor& one : module.*tensors) {
      if (seen.insert(&one.tensor.value()).second)
        all.push_back({path.empty() ? one.name : path + "." + one.name, one.tensor});
    }
  });
  return all;
}

std::vector<NamedTensor> Module::parameters() const { return collect(&Module::parameters_); }
std::vector<NamedTensor> Module::buffers() const { return collect(&Module::buffers_); }

/// Under all of their names.
template <class Tensors>
void Module::collect_all(Tensors Module::*tensors, const std::string& path, std::vector<NamedTensor>& all) const {
  for (const NamedTensor& one : this->*tensors) all.push_back({path + one.name, one.tensor});
  for (const Part& part : parts_) part.module->collect_all(tensors, path + part.name + ".", all);
}

std::vector<NamedTensor> Module::aliases() const {
  std::vector<NamedTensor> further;
  collect_all(&Module::parameters_, "", further);
  collect_all(&Module::buffers_, "", further);
  std::unordered_set<std::string> first;
  for (const NamedTensor& one : parameters()) first.insert(one.name);
  for (const NamedTensor& one : buffers()) first.insert(one.name);
  std::erase_if(further, [&](const NamedTensor& one) { return first.contains(one.name); });
  return further;
}

std::int64_t Module::parameter_count() const {
  std::int64_t count = 0;
  for (const NamedTensor& parameter : parameters()) count += parameter.tensor.shape().count();
  return count;
}

void Module::train(bool on) {
  visit(*this, [&](Module& module, const std::string&) { module.training_ = on && !module.stays_in_evaluation_; });
}

void Module::freeze(std::span<const std::string> patterns, bool statistics) {
  std::unordered_set<const Value*> frozen;
  for (const std::string& pattern : patterns) {
    bool matches = false;
    for (const auto& [name, parameter] : parameters()) {
      if (fnmatch(pattern.c_str(), name.c_str(), 0) != 0) continue;
      matches = true;
      frozen.insert(&parameter.value());
    }
    if (!matches) throw ValueError(concat_text("'", pattern, "' matches no parameter of the model"));
  }
  visit(*this, [&](Module& module, const std::string&) {
    const auto is_frozen = [&](const NamedTensor& each) { return frozen.contains(&each.tensor.value()); };
    for (NamedTensor& each : module.parameters_) {
      if (is_frozen(each)) each.tensor.requires_grad(false);
    }
    const bool whole = std::all_of(module.parameters_.begin(), module.parameters_.end(), is_frozen);
    if (!statistics || module.parameters_.empty() || !whole) return;
    module.stays_in_evaluation_ = true;
    module.training_ = false;
  });
}

void Module::set_memory(const PolicyPtr& policy) {
  const PolicyPtr rest = policy != nullptr && policy->covers_the_rest() ? policy : nullptr;
  bool decides = policy == nullptr || policy->keeps_everything();
  visit(*this, [&](Module& module, const std::string&) {
    decides = decides || module.scope_ == Scope::Block || (module.scope_ == Scope::Model && rest != nullptr);
  });
  if (!decides) {
    throw IdlePolicyError(
        concat_text("memory policy '", policy->name(),
                    "' has nothing to decide about: this module has no block (nn::Block) among its parts"));
  }
  visit(*this, [&](Module& module, const std::string&) {
    if (module.scope_ != Scope::None) module.info_->policy = module.scope_ == Scope::Block ? policy : rest;
  });
}

void Module::set_memory(std::span<const PolicyPtr> policies) {
  const std::size_t blocks = block_names().size();
  if (policies.size() != blocks) {
    throw ValueError(concat_text("set_memory: ", policies.size(), " policies for ", blocks, " blocks"));
  }
  auto policy = policies.begin();
  visit(*this, [&](Module& module, const std::string&) {
    if (module.scope_ != Scope::None) module.info_->policy = module.scope_ == Scope::Block ? *policy++ : nullptr;
  });
}

std::vector<std::string> Module::block_names() const {
  std::vector<std::string> names;
  visit(*this, [&](const Module& module, const std::string&) {
    if (module.scope_ == Scope::Block) names.push_back(module.info_->name);
  });
  return names;
}

thread_local int Module::Call::depth = 0;

void Module::check_hears_of_mode() const {
  if (registered_ || Call::depth < 2) return;  // on its own it is told by whoever calls it
  throw ValueError(
      "a dropout layer works in a model of which it is no part: call add_module() for it, so that it hears "
      "of evaluation mode");
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
  for_each_node(inputs, [&](const Node& node) {
    for (const ValuePtr& input : node.inputs) {
      if (input->leaf() && input->requires_grad()) trained.emplace_back(std::make_shared<Handle>(input, nullptr));
    }
  });
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
  visit(part, [&](const Module& module, const std::string& path) {
    if (&module != this) return;
    throw ValueError(path.empty()
                         ? concat_text("part '", name, "' is the module that it is to be a part of")
                         : concat_text("part '", name, "' has the module that it is to be a part of, as '", path, "'"));
  });
  if (!part.registered_) name_parts_of(part, name);
  part.registered_ = true;
  parts_.push_back({std::move(name), &part});
}

/// Names what has its name from `part`, which becomes a part of this module.
void Module::name_parts_of(Module& part, const std::string& name) const {
  const std::string start = path_.empty() ? name : path_ + "." + name;
  visit(part, [&](Module& module, const std::string& path) {
    if (module.path_ != path) return;  // it was a part of another module before
    module.path_ = path.empty() ? start : start + "." + path;
    module.in_a_model_ = in_a_model_;
    if (module.scope_ == Scope::Block) module.info_->name = module.path_;
  });
}

void Module::say_where(Error& error) const {
  const std::string root = in_a_model_ ? "model" : "";
  const std::string place = root.empty() || path_.empty() ? root + path_ : root + "." + path_;
  if (!place.empty()) error.say_where(place);
}

}  // namespace palimpsest::nn
