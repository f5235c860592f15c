#pragma once

// Ops and recipes that stand for others, to do something else or more.

#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include <palimpsest/autograd/engine/tape.hpp>

namespace palimpsest::test {

/// An op that is another one in everything.
class ForwardingOp : public Op {
 public:
  explicit ForwardingOp(std::unique_ptr<Op> op) : op_(std::move(op)) {}

  std::string_view name() const override { return op_->name(); }
  Cost cost() const override { return op_->cost(); }
  Work forward_work(std::span<const View> inputs, std::span<const View> outputs) const override {
    return op_->forward_work(inputs, outputs);
  }
  Work backward_work(std::span<const View> inputs, std::span<const View> outputs,
                     const std::vector<bool>& wanted) const override {
    return op_->backward_work(inputs, outputs, wanted);
  }
  std::vector<TensorSpec> infer(std::span<const TensorSpec> inputs) const override { return op_->infer(inputs); }
  Needs needs() const override { return op_->needs(); }
  int overwritable_input() const override { return op_->overwritable_input(); }
  int solvable_input() const override { return op_->solvable_input(); }
  void solve(std::span<const View> inputs, const View& output, const View& solved) const override {
    op_->solve(inputs, output, solved);
  }
  bool solves_exactly() const override { return op_->solves_exactly(); }
  std::vector<View> state() const override { return op_->state(); }
  void begin(ForwardContext& io) override { op_->begin(io); }
  void forward(ForwardContext& io) override { op_->forward(io); }
  void backward(BackwardContext& io) override { op_->backward(io); }

 protected:
  Op& op() { return *op_; }

 private:
  std::unique_ptr<Op> op_;
};

/// Lets `wrap` make another op of the one that a step has recorded. A tape shows its nodes const, the nodes are
/// not.
inline void replace_op(const Node& node, const std::function<std::unique_ptr<Op>(std::unique_ptr<Op>)>& wrap) {
  std::unique_ptr<Op>& op = const_cast<Node&>(node).op;
  op = wrap(std::move(op));
}

/// A recipe that is another one in everything.
class ForwardingRecipe : public Recipe {
 public:
  explicit ForwardingRecipe(RecipePtr recipe) : recipe_(std::move(recipe)) {}

  std::string_view name() const override { return recipe_->name(); }
  const Node* via(const Value& value) const override { return recipe_->via(value); }
  std::vector<Value*> sources(const Value& value) const override { return recipe_->sources(value); }
  bool exact(const Value& value) const override { return recipe_->exact(value); }
  int arena() const override { return recipe_->arena(); }
  int nesting() const override { return recipe_->nesting(); }
  void save(const View& bytes, const std::shared_ptr<Storage>& memory) override { recipe_->save(bytes, memory); }
  bool fetch_ahead(const Value& value) override { return recipe_->fetch_ahead(value); }
  void restore(Restoring& restoring) override { recipe_->restore(restoring); }

 private:
  RecipePtr recipe_;
};

}  // namespace palimpsest::test
