#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <palimpsest/autograd/policy.hpp>
#include <palimpsest/memory/offload.hpp>

namespace palimpsest::memory {

/// Gives the blocks whose name matches a pattern a policy. In a pattern `*` stands for any characters and `?` for one.
/// A pattern without a dot is also compared with the last part of a block's name: `unit*` matches "stage1.unit3".
struct Rule {
  std::string pattern;
  PolicyPtr policy;
};

/// Reads what the flag --memory takes:
///
///     shared                                       one policy for every block
///     checkpoint+shared                            composed, see compose()
///     dense1=shared,transition*=store-all,*=checkpoint    by block: the first pattern that matches decides
///
/// Blocks that no pattern names keep everything. The options are those of "offload". Throws ValueError, saying what was
/// expected where; a budget is none of these (parse()).
std::vector<Rule> parse_rules(std::string_view text, const OffloadOptions& options = {});

/// True if one of the rules' policies moves values out of the device's memory.
bool offloads(std::span<const Rule> rules);

/// The texts that parse_rules() takes, for help.
std::string rules_help();

/// True if the pattern, in which * stands for any characters, names this block.
bool matches(std::string_view pattern, std::string_view block);

/// The policy that the rules give to each of these blocks, null for those that no pattern names. Throws ValueError,
/// listing the blocks, for a pattern that names none of them, and for one whose blocks earlier patterns have all taken.
std::vector<PolicyPtr> assign(std::span<const Rule> rules, std::span<const std::string> blocks);

}  // namespace palimpsest::memory
