#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include <palimpsest/autograd/policy.hpp>
#include <palimpsest/memory/budget.hpp>
#include <palimpsest/memory/offload.hpp>

namespace palimpsest::memory {

/// Gives the blocks whose name matches a pattern a policy. In a pattern `*` stands for any characters and `?` for one.
/// A pattern without a dot is also compared with the last part of a block's name: `unit*` matches "stage1.unit3".
struct Rule {
  std::string pattern;
  PolicyPtr policy;
};

/// A text's demand on a model's memory: policies by rules, or a budget, for which a plan must be made.
class Request {
 public:
  /// Rules, at least one.
  explicit Request(std::vector<Rule> rules) : asked_(std::move(rules)) {}
  explicit Request(Budget budget) : asked_(std::move(budget)) {}

  /// Nullopt where rules are asked for.
  std::optional<Budget> budget() const;
  /// The first that matches a block decides. Throws ValueError for a budget: its policy takes a step to rehearse.
  std::vector<Rule> rules() const;
  /// The one policy of all blocks. Throws ValueError for a budget and for rules by block.
  PolicyPtr policy() const;
  /// True if one of the policies moves values out of the device's memory. A plan may do so, too.
  bool offloads() const;

 private:
  std::variant<std::vector<Rule>, Budget> asked_;
};

/// Reads what the flag --memory takes, and every other text that names a policy:
///
///     shared                                       one policy for every block
///     checkpoint+shared                            composed, see compose()
///     dense1=shared,transition*=store-all,*=checkpoint    by block: the first pattern that matches decides
///     budget=2GiB, budget=40%                      a plan that keeps within so much, see Budget
///
///     text   = "budget=" bytes | policy | rule { "," rule }
///     rule   = pattern "=" policy
///     policy = name { "+" name }, composed from left (outer) to right (inner); the names are names()
///
/// Blocks that no pattern names keep everything. The options are those of "offload". Throws ValueError, saying what was
/// expected where.
Request parse(std::string_view text, const OffloadOptions& options = {});

/// The texts that parse() takes, for help.
std::string request_help();

/// True if the pattern, in which * stands for any characters, names this block.
bool matches(std::string_view pattern, std::string_view block);

/// The policy that the rules give to each of these blocks, null for those that no pattern names. Throws ValueError,
/// listing the blocks, for a pattern that names none of them, and for one whose blocks earlier patterns have all taken.
std::vector<PolicyPtr> assign(std::span<const Rule> rules, std::span<const std::string> blocks);

}  // namespace palimpsest::memory
