#include <palimpsest/memory/rules.hpp>

#include <algorithm>

#include <palimpsest/memory/budget.hpp>
#include <palimpsest/memory/policies.hpp>

namespace palimpsest::memory {
namespace {

constexpr std::string_view whole_model = "*";

std::vector<std::string_view> split(std::string_view text, char at) {
  std::vector<std::string_view> parts;
  for (std::size_t begin = 0; begin <= text.size();) {
    const std::size_t end = std::min(text.find(at, begin), text.size());
    parts.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return parts;
}

Rule parse_rule(std::string_view text, const OffloadOptions& options) {
  const std::size_t equals = text.find('=');
  if (equals == std::string_view::npos || equals == 0 || equals + 1 == text.size()) {
    throw ValueError(concat_text("memory policy '", text, "', expected PATTERN=POLICY"));
  }
  if (is_budget(text) || is_budget(text.substr(equals + 1))) {
    throw ValueError(concat_text("memory policy '", text, "': a budget is for a whole model and stands alone"));
  }
  return {std::string(text.substr(0, equals)), parse(text.substr(equals + 1), options)};
}

bool matches_whole(std::string_view pattern, std::string_view text) {
  // A star that has matched too little is tried again with one character more; only the last star counts.
  std::size_t p = 0;
  std::size_t t = 0;
  std::size_t star = std::string_view::npos;
  std::size_t resume = 0;
  while (t < text.size()) {
    if (p < pattern.size() && pattern[p] == '*') {
      star = p++;
      resume = t;
    } else if (p < pattern.size() && (pattern[p] == '?' || pattern[p] == text[t])) {
      ++p;
      ++t;
    } else if (star != std::string_view::npos) {
      p = star + 1;
      t = ++resume;
    } else {
      return false;
    }
  }
  return std::all_of(pattern.begin() + static_cast<std::ptrdiff_t>(p), pattern.end(), [](char c) { return c == '*'; });
}

}  // namespace

std::vector<Rule> parse_rules(std::string_view text, const OffloadOptions& options) {
  if (is_budget(text) || (text.find('=') == std::string_view::npos && text.find(',') == std::string_view::npos)) {
    return {{std::string(whole_model), parse(text, options)}};
  }
  std::vector<Rule> rules;
  for (const std::string_view part : split(text, ',')) rules.push_back(parse_rule(part, options));
  return rules;
}

bool offloads(std::span<const Rule> rules) {
  return std::any_of(rules.begin(), rules.end(), [](const Rule& rule) { return offloads(*rule.policy); });
}

std::string rules_help() {
  return concat_text(join(names()), "; composed as checkpoint+shared; by block as 'dense1=shared,*=checkpoint'");
}

bool matches(std::string_view pattern, std::string_view block) {
  if (matches_whole(pattern, block)) return true;
  const std::size_t dot = block.rfind('.');
  return pattern.find('.') == std::string_view::npos && dot != std::string_view::npos &&
         matches_whole(pattern, block.substr(dot + 1));
}

std::vector<PolicyPtr> assign(std::span<const Rule> rules, std::span<const std::string> blocks) {
  std::vector<PolicyPtr> policies(blocks.size());
  for (const Rule& rule : rules) {
    if (blocks.empty() && !rule.policy->keeps_everything()) {
      throw IdlePolicyError(concat_text("memory policy '", rule.policy->name(),
                                        "' has nothing to decide about: this model has no block (nn::Block)"));
    }
    bool matched = rule.pattern == whole_model;
    bool decided = matched;
    for (std::size_t i = 0; i < blocks.size(); ++i) {
      if (!matches(rule.pattern, blocks[i])) continue;
      matched = true;
      if (policies[i] != nullptr) continue;
      decided = true;
      policies[i] = rule.policy;
    }
    if (matched && !decided) {
      throw ValueError(concat_text("memory policy: '", rule.pattern,
                                   "' decides about no block: earlier patterns match all of its blocks"));
    }
    if (!matched) {
      throw ValueError(
          concat_text("memory policy: '", rule.pattern, "' matches no block of this model, which has ", join(blocks)));
    }
  }
  return policies;
}

}  // namespace palimpsest::memory
