#pragma once

#include <concepts>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <palimpsest/autograd/policy.hpp>
#include <palimpsest/autograd/tensor.hpp>
#include <palimpsest/core/error.hpp>

namespace palimpsest::nn {

/// A parameter or buffer and its path in the model, like "dense1.layer2.conv1.weight".
struct NamedTensor {
  std::string name;
  Tensor tensor;
};

/// Overwrites tensors by their names, in any order: parameters, buffers or an optimiser's state that were saved. Those
/// of `to` that `from` does not name stay. Throws ValueError for a name that `to` does not have, ShapeError and
/// DtypeError for a tensor that does not fit; then nothing has changed.
void assign_by_name(std::span<const NamedTensor> to, std::span<const NamedTensor> from);

/// A member that can be moved only in a program that does not compile: the message says what to do instead.
struct StaysInPlace {
  StaysInPlace() = default;
  StaysInPlace(const StaysInPlace&) = delete;
  StaysInPlace& operator=(const StaysInPlace&) = delete;
  template <std::same_as<StaysInPlace> Moved>
  StaysInPlace(Moved&&) noexcept {
    static_assert(sizeof(Moved) == 0,
                  "a module stays where it is, because the modules that it is a part of refer to it: keep several in a "
                  "std::deque, made by emplace_back, or in a std::vector of std::unique_ptr");
  }
};

/// A part of a model: its parameters, its buffers (state that has no gradient: running statistics) and its parts. A
/// module registers them in its constructor; it is neither copied nor moved afterwards.
class Module {
 public:
  Module() = default;
  virtual ~Module() = default;
  Module(const Module&) = delete;
  Module(Module&&) = default;  // for the message of StaysInPlace
  Module& operator=(const Module&) = delete;

  /// In order of registration, which is the order of every digest and checkpoint. A tensor that is registered in
  /// several places, or whose module is, is listed once, with its first name.
  std::vector<NamedTensor> parameters() const;
  std::vector<NamedTensor> buffers() const;
  /// The further names of parameters and buffers that have several.
  std::vector<NamedTensor> aliases() const;
  /// Number of elements of all parameters.
  std::int64_t parameter_count() const;

  /// Training mode (the default) or evaluation mode, here and in all parts.
  void train(bool on = true);
  bool training() const { return training_; }

  /// Stops training the parameters whose paths match one of the patterns ("dense1.*"; '*', '?' and '[...]' as in a
  /// shell, '*' for dots, too): they have no gradient from the next forward on, and an op that has a gradient for
  /// nobody keeps nothing. With `statistics` the modules all of whose own parameters are frozen stay in evaluation
  /// mode: a normalisation uses its running statistics, and leaves them as they are. Throws ValueError, and nothing has
  /// changed, for a pattern that matches no parameter.
  void freeze(std::span<const std::string> patterns, bool statistics = false);

  /// The memory policy of every block in this module, from the next forward on, and, if it plans a whole step
  /// (Policy::covers_the_rest), of a model's ops outside every block. Null, as before the first call: that of a block
  /// around it; without one, keep everything. Throws IdlePolicyError for a policy that has nothing to decide about,
  /// because there is no block.
  void set_memory(const PolicyPtr& policy);
  /// The memory policy of each block, in the order of block_names(). To give policies by names:
  /// set_memory(memory::assign(memory::parse("dense1=shared,*=checkpoint").rules(), block_names())). Throws ValueError
  /// for another number of policies; nothing has changed then.
  void set_memory(std::span<const PolicyPtr> policies);

  /// Names of the blocks, the units of memory policy.
  std::vector<std::string> block_names() const;

  /// A 128-bit digest, in hexadecimal, of the bytes of all parameters and buffers.
  std::string state_digest() const;

  /// Checks that an optimiser given parameters() trains every leaf that a backward from `outputs` would reach, except
  /// `inputs`: a leaf beside those belongs to a module that add_module() was not called for. Throws ValueError, naming
  /// its shape and an op that reads it; the step has failed then.
  void check_registered(std::span<const Tensor> outputs, std::span<const Tensor> inputs = {}) const;

 protected:
  /// The ops whose memory a module's policy is about: of a block, or those of a model outside every block.
  enum class Scope { None, Block, Model };
  explicit Module(Scope scope);

  /// Registers a leaf, asks for its gradient, and returns it. Throws ValueError (as all three do) for a name that is
  /// empty or taken in this module.
  Tensor add_parameter(std::string name, Tensor tensor);
  Tensor add_buffer(std::string name, Tensor tensor);
  /// Registers a part, which must live as long as this module. Its name may be a path ("stage1.unit2"). A part may be
  /// registered in several places: what it has counts once, and its blocks have their names from the first. Throws
  /// ValueError for a module that this one is itself a part of, at any depth.
  void add_module(std::string name, Module& part);

  /// Runs `body`, this module's work: an Error that leaves it says where it was thrown ("in model.stage1.conv: ..."),
  /// unless a module inside has said so.
  template <class Body>
  auto located(const Body& body) const {
    const Call call;
    try {
      return body();
    } catch (Error& error) {
      say_where(error);
      throw;
    }
  }

  /// For a module whose work depends on training(): throws ValueError if it works inside another and is registered
  /// nowhere, so that evaluation mode would never reach it.
  void check_hears_of_mode() const;

  /// The block or model as policies see it; null for a module that is neither.
  const std::shared_ptr<BlockInfo>& scope_info() const { return info_; }

  /// The leaves whose gradients the caller has asked for among a model's inputs and behind them: another model may have
  /// made an input.
  static std::vector<Tensor> trained_inputs(const std::vector<Tensor>& inputs);

 private:
  /// The work of a module, on this thread.
  class Call {
   public:
    Call() { ++depth; }
    ~Call() { --depth; }
    Call(const Call&) = delete;
    Call& operator=(const Call&) = delete;

    static thread_local int depth;  ///< modules that are at work
  };
  struct Part {
    std::string name;
    Module* module;
  };

  template <class Self, class Visit>
  static void visit(Self& module, const Visit& visit);
  template <class Tensors>
  void collect_all(Tensors Module::*tensors, const std::string& path, std::vector<NamedTensor>& all) const;
  template <class Tensors>
  std::vector<NamedTensor> collect(Tensors Module::*tensors) const;
  void say_where(Error& error) const;
  void name_parts_of(Module& part, const std::string& name) const;
  void check_name(std::string_view kind, const std::string& name) const;

  std::vector<NamedTensor> parameters_;
  std::vector<NamedTensor> buffers_;
  std::vector<Part> parts_;
  Scope scope_ = Scope::None;
  std::shared_ptr<BlockInfo> info_;
  bool training_ = true;
  bool stays_in_evaluation_ = false;
  bool registered_ = false;
  std::string path_;         // from the outermost module that it is a part of, by the first registrations
  bool in_a_model_ = false;  // that module is a Model
  [[no_unique_address]] StaysInPlace stays_;
};

}  // namespace palimpsest::nn
