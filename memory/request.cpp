#include <palimpsest/memory/request.hpp>

#include <algorithm>

#include <palimpsest/memory/policies.hpp>

namespace palimpsest::memory {
namespace {

constexpr std::string_view whole_model = "*";
constexpr std::string_view budget_prefix = "budget=";

std::vector<std::string_view> split(std::string_view text, char at) {
  std::vector<std::string_view> parts;
  for (std::size_t begin = 0; begin <= text.size();) {
    const std::size_t end = std::min(text.find(at, begin), text.size());
    parts.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return parts;
}

PolicyPtr parse_name(std::string_view name, const OffloadOptions& options) {
  for (PolicyPtr& policy : combinations(options)) {
    if (policy->name() == name) return std::move(policy);
  }
  throw ValueError(concat_text("unknown memory policy '", name, "', expected one of ", join(names())));
}

PolicyPtr parse_policy(std::string_view text, const OffloadOptions& options) {
  PolicyPtr policy;
  for (const std::string_view name : split(text, '+')) {
    PolicyPtr next = parse_name(name, options);
    policy = policy == nullptr ? std::move(next) : compose(std::move(policy), std::move(next));
  }
  return policy;
}

Rule parse_rule(std::string_view text, const OffloadOptions& options) {
  const std::size_t equals = text.find('=');
  if (equals == std::string_view::npos || equals == 0 || equals + 1 == text.size()) {
    throw ValueError(concat_text("memory policy '", text, "', expected PATTERN=POLICY"));
  }
  const std::string_view policy = text.substr(equals + 1);
  if (text.starts_with(budget_prefix) || policy.starts_with(budget_prefix)) {
    throw ValueError(concat_text("memory policy '", text, "': a budget is for a whole model and stands alone"));
  }
  return {std::string(text.substr(0, equals)), parse_policy(policy, options)};
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

std::optional<Budget> Request::budget() const {
  const auto* const asked = std::get_if<Budget>(&asked_);
  return asked != nullptr ? std::optional(*asked) : std::nullopt;
}

std::vector<Rule> Request::rules() const {
  if (const auto* const asked = std::get_if<Budget>(&asked_)) {
    throw ValueError(concat_text("memory policy '", budget_prefix, asked->text(),
                                 "': a budget needs a step to rehearse; train::choose_memory() plans for a task and "
                                 "for a step of your own"));
  }
  return std::get<std::vector<Rule>>(asked_);
}

PolicyPtr Request::policy() const {
  const std::vector<Rule> all = rules();
  if (all.size() == 1 && all[0].pattern == whole_model) return all[0].policy;
  throw ValueError(concat_text("memory policies by block ('", all[0].pattern, "=", all[0].policy->name(),
                               "'), expected one for all; memory::assign() gives blocks theirs"));
}

bool Request::offloads() const {
  const auto* const rules = std::get_if<std::vector<Rule>>(&asked_);
  return rules != nullptr &&
         std::any_of(rules->begin(), rules->end(), [](const Rule& rule) { return memory::offloads(*rule.policy); });
}

Request parse(std::string_view text, const OffloadOptions& options) {
  if (text.find_first_of("=,") == std::string_view::npos) {
    return Request({{std::string(whole_model), parse_policy(text, options)}});
  }
  const std::vector<std::string_view> parts = split(text, ',');
  if (parts.size() == 1 && text.starts_with(budget_prefix)) return Request(Budget(text.substr(budget_prefix.size())));
  std::vector<Rule> rules;
  for (const std::string_view part : parts) rules.push_back(parse_rule(part, options));
  return Request(std::move(rules));
}

std::string request_help() {
  return concat_text(join(names()),
                     "; composed as checkpoint+shared; by block as 'dense1=shared,*=checkpoint'; or a budget that the "
                     "planner keeps to, as budget=2GiB (also MB, MiB, %)");
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
