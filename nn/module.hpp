#pragma once

#include <span>
#include <string>
#include <vector>

#include <palimpsest/autograd/policy.hpp>
#include <palimpsest/autograd/tensor.hpp>

namespace palimpsest::nn {

/// A parameter or buffer and its path in the model, like "dense1.layer2.conv1.weight".
struct NamedTensor {
  std::string name;
  Tensor tensor;
};

/// A part of a model: its parameters, its buffers (state that has no gradient: running statistics) and its parts. A
/// module registers them in its constructor; it is neither copied nor moved afterwards.
class Module {
 public:
  Module() = default;
  virtual ~Module() = default;
  Module(const Module&) = delete;
  Module& operator=(const Module&) = delete;

  /// In order of registration, which is the order of every digest and checkpoint.
  std::vector<NamedTensor> parameters() const;
  std::vector<NamedTensor> buffers() const;
  /// Number of elements of all parameters.
  std::int64_t parameter_count() const;

  /// Training mode (the default) or evaluation mode, here and in all parts.
  void train(bool on = true);
  bool training() const { return training_; }

  /// The memory policy of every block in this module, from the next forward on.
  void set_memory(const PolicyPtr& policy);
  /// The memory policy of each block, in the order of block_names(); null: keep everything. To give policies by names:
  /// set_memory(memory::assign(memory::parse_rules("dense1=shared,*=checkpoint"), block_names())). Throws ValueError
  /// for another number of policies; nothing has changed then.
  void set_memory(std::span<const PolicyPtr> policies);

  /// Names of the blocks, the units of memory policy.
  std::vector<std::string> block_names() const;

  /// A 128-bit digest, in hexadecimal, of the bytes of all parameters and buffers.
  std::string state_digest() const;

 protected:
  /// Registers a leaf, asks for its gradient, and returns it.
  Tensor add_parameter(std::string name, Tensor tensor);
  Tensor add_buffer(std::string name, Tensor tensor);
  /// Registers a part, which must live as long as this module.
  void add_module(std::string name, Module& part);

  /// What a block tells policies about itself; null for a module that is no block.
  virtual BlockInfo* block_info() { return nullptr; }
  /// What a whole model tells policies about its ops outside every block (Policy::covers_the_rest); null for a module
  /// that leaves those alone.
  virtual BlockInfo* rest_info() { return nullptr; }

 private:
  struct Part {
    std::string name;
    Module* module;
  };

  template <class Visit>
  void visit(const std::string& path, const Visit& visit);
  void prefix_block_names(const std::string& prefix);

  std::vector<NamedTensor> parameters_;
  std::vector<NamedTensor> buffers_;
  std::vector<Part> parts_;
  bool training_ = true;
};

}  // namespace palimpsest::nn
