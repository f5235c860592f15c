#include <palimpsest/autograd/policy.hpp>

#include <palimpsest/autograd/value.hpp>

namespace palimpsest {

const Node* Recipe::via(const Value& value) const { return value.producer(); }

std::vector<Value*> Recipe::sources(const Value& value) const {
  std::vector<Value*> inputs;
  for (const ValuePtr& input : value.producer()->inputs) inputs.push_back(input.get());
  return inputs;
}

bool Recipe::exact(const Value&) const { return true; }

void Recipe::save(const View&, const std::shared_ptr<Storage>&) {}

bool Recipe::fetch_ahead(const Value&) { return false; }

std::optional<RecipePtr> Policy::reconsider(const Value&, const Offer&, const BlockInfo&) const { return std::nullopt; }

}  // namespace palimpsest
