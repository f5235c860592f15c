#include <palimpsest/memory/recipes.hpp>

namespace palimpsest::memory {
namespace {

class Replay : public Recipe {
 public:
  Replay(int arena, int nesting) : arena_(arena), nesting_(nesting) {}

  std::string_view name() const override { return arena_ < 0 ? "replay" : "replay into arena"; }
  Way way() const override { return arena_ < 0 ? Way::Replay : Way::Arena; }
  int arena() const override { return arena_; }
  int nesting() const override { return nesting_; }
  void restore(Restoring& restoring) override { restoring.replay(); }

 private:
  int arena_;
  int nesting_;
};

class Invert : public Recipe {
 public:
  explicit Invert(const Node& coupling) : coupling_(coupling) {}

  std::string_view name() const override { return "invert"; }
  Way way() const override { return Way::Invert; }
  bool exact(const Value&) const override { return coupling_.op->solves_exactly(); }
  const Node* via(const Value&) const override { return &coupling_; }

  std::vector<Value*> sources(const Value& value) const override {
    std::vector<Value*> known{coupling_.outputs[0].get()};
    for (const ValuePtr& input : coupling_.inputs) {
      if (input.get() != &value) known.push_back(input.get());
    }
    return known;
  }

  void restore(Restoring& restoring) override {
    std::vector<View> inputs;
    Value* last = nullptr;
    for (const ValuePtr& input : coupling_.inputs) {
      const bool unknown = input.get() == &restoring.value();
      inputs.push_back(unknown ? View{} : input->view());
      if (!unknown) last = input.get();
    }
    const View output = coupling_.outputs[0]->view();
    // The branch has served its purpose and the stream may take its memory.
    const View solved = last != nullptr ? restoring.destination_over(*last) : restoring.destination();
    coupling_.op->solve(inputs, output, solved);
  }

 private:
  const Node& coupling_;
};

}  // namespace

RecipePtr replay(int nesting) {
  static const RecipePtr flat = std::make_shared<Replay>(-1, 0);
  return nesting == 0 ? flat : std::make_shared<Replay>(-1, nesting);
}

RecipePtr replay_into_arena(int arena) { return std::make_shared<Replay>(arena, 0); }

RecipePtr invert(const Node& coupling) { return std::make_shared<Invert>(coupling); }

}  // namespace palimpsest::memory
