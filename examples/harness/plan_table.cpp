#include "examples/harness/plan_table.hpp"

#include <algorithm>
#include <functional>
#include <iomanip>
#include <map>
#include <sstream>

#include <palimpsest/memory/policies.hpp>
#include "examples/harness/blame_flags.hpp"
#include "examples/harness/dry_run.hpp"

namespace palimpsest::harness {
namespace {

constexpr std::int64_t most_batch = 65536;
constexpr std::int64_t most_layers = 1000;
// A planner rehearses a step about a hundred times.
constexpr int most_plans = 6;
constexpr std::int64_t most_planned_layers = 300;

/// The plan of a training run whose flags can be varied.
class Table {
 public:
  Table(const MakeModel& make_model, const Options& options, const TrainingDefaults& defaults, Device device)
      : make_model_(make_model),
        options_(options),
        defaults_(defaults),
        device_(device),
        rates_(rates_for(options, device)) {
    if (!options.budget.empty()) budget_ = memory::parse_bytes(options.budget, device_bytes(device));
  }

  std::vector<PlanRow> rows(const std::optional<DepthFlag>& depth, const std::function<void(const PlanRow&)>& each) {
    const auto finished = [&](const PlanRow& row) {
      if (each) each(row);
    };
    std::vector<PlanRow> rows;
    for (const PolicyPtr& policy : memory::combinations()) {
      const MemoryChoice choice{.rules = {{"*", policy}}};
      try {
        rows.push_back(row(std::string(policy->name()), choice));
      } catch (const ValueError&) {
        continue;  // it has nothing to act on in this model
      }
      if (std::any_of(rows.begin(), std::prev(rows.end()),
                      [&](const PlanRow& other) { return alike(other, rows.back()); })) {
        rows.pop_back();  // a composed policy that comes to the same as one of its parts
      } else {
        limits(rows.back(), choice, depth);
        finished(rows.back());
      }
    }
    const auto same = [&](const PlanRow& row) { return row.policy == options_.memory; };
    if (!is_budget(options_.memory) && std::none_of(rows.begin(), rows.end(), same)) {
      const MemoryChoice choice = choose_memory(make_model_, options_, defaults_, device_);
      rows.push_back(row(options_.memory, choice));
      limits(rows.back(), choice, depth);
      finished(rows.back());
    }
    std::vector<std::string> asked;
    if (is_budget(options_.memory)) asked.push_back(options_.memory.substr(options_.memory.find('=') + 1));
    if (budget_ != 0 && (asked.empty() || bytes_of(asked[0]) != budget_)) asked.push_back(options_.budget);
    for (const std::string& text : asked) {
      std::int64_t deepest = 0;  // that a policy makes possible which the planner looks at, too
      for (const PlanRow& row : rows) {
        const bool allowed = row.policy.find("offload") == std::string::npos || may_offload(options_, device_);
        const bool by_itself = row.policy != options_.memory && !row.planned;
        if (bytes_of(text) >= budget_ && allowed && by_itself && row.largest_depth) {
          deepest = std::max(deepest, row.largest_depth->number);
        }
      }
      rows.push_back(budget_row(text, depth, deepest));
      finished(rows.back());
    }
    return rows;
  }

 private:
  static bool alike(const PlanRow& a, const PlanRow& b) {
    return a.forecast.peak == b.forecast.peak && a.forecast.seconds == b.forecast.seconds;
  }

  PlanRow row(const std::string& name, const MemoryChoice& choice) {
    MetaTraining training(make_model_, options_, defaults_, device_);
    choice.apply(training.model());
    const memory::Rehearsal rehearsal = training.rehearsal();
    return {name,
            memory::forecast(rehearsal, nullptr, rates_),
            memory::count_recipes(memory::rehearse(rehearsal, nullptr)),
            choice.planned != nullptr,
            std::nullopt,
            std::nullopt};
  }

  std::size_t bytes_of(const std::string& text) const { return memory::parse_bytes(text, device_bytes(device_)); }

  /// What `--memory budget=text` would do, or the least that can be done; its limits are within that budget, whatever
  /// --budget says: a run keeps to it. `deepest`: a depth known to fit, 0 for none.
  PlanRow budget_row(const std::string& text, const std::optional<DepthFlag>& depth, std::int64_t deepest) {
    Options asked = options_;
    asked.memory = "budget=" + text;
    const MemoryChoice thriftiest = thriftiest_plan(options_);
    PlanRow found;
    try {
      found = row(asked.memory, choose_memory(make_model_, asked, defaults_, device_));
    } catch (const ValueError& error) {
      found = row("least, above " + text, thriftiest);
      found.note = error.what();
    }
    if (budget_ == 0) return found;
    const std::size_t least = dry_run_bytes(make_model_, thriftiest, options_, defaults_, device_);
    // Plans follow the order of ops, which the batch does not change: this batch's thriftiest plan says what batch is
    // possible at least, and the planner, which takes longer, whether it finds a way to larger ones.
    FitSearch search = batches(bytes_of(text), [&](const Options& options) {
      return std::optional(dry_run_bytes(make_model_, thriftiest, options, defaults_, device_));
    });
    const auto planned = [&](const Options& options) {
      return std::optional(dry_run_bytes(make_model_, thriftiest_plan(options), options, defaults_, device_));
    };
    const std::int64_t possible = find_largest(search)->number;
    search = batches(bytes_of(text), planned);
    search.known_fit = possible;
    search.known = {{search.start, least}};
    search.most_calls = most_plans;
    found.largest_batch = find_largest(search);
    if (!depth) return found;
    FitSearch depths = depths_of(*depth, bytes_of(text), std::max(most_planned_layers, *depth->value));
    if (deepest != 0) depths.known_fit = number_of(*depth, deepest);
    depths.known = {{depths.start, least}};
    depths.most_calls = most_plans;
    found.largest_depth = find_largest_depth(*depth, depths, [&] { return planned(options_); });
    return found;
  }

  MemoryChoice thriftiest_plan(const Options& options) const {
    MetaTraining training(make_model_, options, defaults_, device_);
    const memory::Planner planner(training.rehearsal(), rates_, may_offload(options, device_));
    return {{}, planner.candidates().front().policy, 0};
  }

  void limits(PlanRow& row, const MemoryChoice& choice, const std::optional<DepthFlag>& depth) {
    if (budget_ == 0) return;
    row.largest_batch = find_largest(batches(budget_, [&](const Options& options) {
      return std::optional(dry_run_bytes(make_model_, choice, options, defaults_, device_));
    }));
    if (!depth) return;
    const FitSearch depths = depths_of(*depth, budget_, std::max(most_layers, 2 * *depth->value));
    row.largest_depth = find_largest_depth(*depth, depths, [&]() -> std::optional<std::size_t> {
      try {
        return dry_run_bytes(make_model_, choice, options_, defaults_, device_);
      } catch (const UsageError&) {
        return std::nullopt;  // a net so shallow that a pattern matches no block of it, or a policy finds nothing to do
      }
    });
  }

  FitSearch batches(std::size_t budget, const std::function<std::optional<std::size_t>(const Options&)>& bytes) const {
    Options all = options_;
    all.batch_size = most_batch;
    return {.budget = budget,
            .start = run_length(options_).batch_size,
            .most = run_length(all).batch_size,
            .bytes = [this, bytes](std::int64_t batch) {
              Options other = options_;
              other.batch_size = batch;
              return bytes(other);
            }};
  }

  static std::int64_t number_of(const DepthFlag& depth, std::int64_t layers) {
    return (layers - depth.first) / depth.step + 1;
  }

  static FitSearch depths_of(const DepthFlag& depth, std::size_t budget, std::int64_t deepest) {
    return {.budget = budget, .start = number_of(depth, *depth.value), .most = number_of(depth, deepest)};
  }

  static std::optional<LargestFit> find_largest_depth(const DepthFlag& depth, FitSearch search,
                                                      const std::function<std::optional<std::size_t>()>& bytes) {
    search.bytes = [&, given = *depth.value](std::int64_t number) {
      *depth.value = depth.first + (number - 1) * depth.step;
      const auto found = bytes();
      *depth.value = given;
      return found;
    };
    std::optional<LargestFit> found = find_largest(search);
    if (!found) return std::nullopt;
    if (found->number >= search.most) found->exact = false;  // nothing but patience ends the search there
    if (found->number != 0) found->number = depth.first + (found->number - 1) * depth.step;
    return found;
  }

  const MakeModel& make_model_;
  const Options& options_;
  const TrainingDefaults& defaults_;
  Device device_;
  memory::Rates rates_;
  std::size_t budget_ = 0;
};

std::string fixed(double value, int digits) {
  std::ostringstream out;
  out << std::fixed << std::setprecision(digits) << value;
  return out.str();
}

std::string mebibytes(std::size_t bytes) { return fixed(static_cast<double>(bytes) / (1 << 20), 1); }

std::string percent_more(double value, double than) {
  const double percent = (value / than - 1) * 100;
  return (percent >= 0 ? "+" : "") + fixed(percent, 1) + " %";
}

std::string number_or_dash(const std::optional<LargestFit>& fit) {
  if (!fit) return "-";
  if (fit->number == 0) return "none";
  return concat_text(fit->exact ? "" : ">= ", fit->number);
}

std::vector<std::string> cells(const PlanRow& row, const PlanRow& base, bool limits) {
  const auto tag = [&](Tag which) { return row.forecast.by_tag[static_cast<std::size_t>(which)]; };
  const std::size_t shown = tag(Tag::Activation) + tag(Tag::Gradient) + tag(Tag::Arena) + tag(Tag::Workspace);
  std::vector<std::string> texts = {row.policy,
                                    mebibytes(row.forecast.peak),
                                    mebibytes(tag(Tag::Activation)),
                                    mebibytes(tag(Tag::Gradient)),
                                    mebibytes(tag(Tag::Arena)),
                                    mebibytes(tag(Tag::Workspace)),
                                    mebibytes(row.forecast.peak - shown),
                                    fixed(row.forecast.work.operations / 1e9, 1),
                                    percent_more(row.forecast.work.operations, base.forecast.work.operations),
                                    percent_more(row.forecast.seconds, base.forecast.seconds),
                                    row.recipes.inexact == 0 ? "yes" : "no"};
  if (limits) {
    texts.push_back(number_or_dash(row.largest_batch));
    texts.push_back(number_or_dash(row.largest_depth));
  }
  return texts;
}

/// Prints lines as they come: widths are those of the headings, but at least so much as numbers take.
class LinePrinter {
 public:
  LinePrinter(std::ostream& out, const std::vector<std::string>& headings, std::size_t first_width) : out_(out) {
    for (const std::string& heading : headings) widths_.push_back(std::max<std::size_t>(heading.size(), 7));
    widths_[0] = std::max(widths_[0], first_width);
    print(headings);
  }

  void print(const std::vector<std::string>& line) const {
    out_ << std::left << std::setw(static_cast<int>(widths_[0])) << line[0] << std::right;
    for (std::size_t i = 1; i < line.size(); ++i) out_ << "  " << std::setw(static_cast<int>(widths_[i])) << line[i];
    out_ << std::endl;
  }

 private:
  std::ostream& out_;
  std::vector<std::size_t> widths_;
};

/// Of the longest name that a row of the table may have.
std::size_t width_of_names(const Options& options) {
  const std::size_t prefix = std::string_view("least, above ").size();
  std::size_t width = std::max(options.memory.size(), prefix + options.budget.size());
  if (is_budget(options.memory)) width = std::max(width, prefix + options.memory.size() - options.memory.find('=') - 1);
  for (const PolicyPtr& policy : memory::combinations()) width = std::max(width, policy->name().size());
  return width;
}

/// "dense1, dense2: shared" for the policies that --memory gives.
void print_blocks(std::ostream& out, const nn::Module& model, const std::vector<memory::Rule>& rules) {
  const std::vector<std::string> blocks = model.block_names();
  const std::vector<PolicyPtr> policies = memory::assign(rules, blocks);
  std::map<std::string, std::string> names;
  for (std::size_t i = 0; i < blocks.size(); ++i) {
    std::string& text = names[policies[i] != nullptr ? std::string(policies[i]->name()) : "store-all"];
    text += (text.empty() ? "" : ", ") + blocks[i];
  }
  for (const auto& [policy, text] : names) out << "  " << policy << ": " << text << '\n';
}

}  // namespace

std::vector<PlanRow> plan_rows(const MakeModel& make_model, const Options& options, const TrainingDefaults& defaults,
                               Device device, const std::optional<DepthFlag>& depth,
                               const std::function<void(const PlanRow&)>& each) {
  return blame_flags([&] { return Table(make_model, options, defaults, device).rows(depth, each); });
}

void print_plan(std::ostream& out, const std::string& model, const MakeModel& make_model, const Options& options,
                const TrainingDefaults& defaults, Device device, const std::optional<DepthFlag>& depth) {
  std::vector<std::string> headings = {"policy", "peak",  "activation",          "gradient",       "arena", "workspace",
                                       "other",  "GFLOP", "more than store-all", "predicted time", "exact"};
  const bool limits = !options.budget.empty();
  if (limits) {
    headings.push_back("largest batch");
    headings.push_back("largest depth");
  }
  std::optional<PlanRow> base;
  std::string plans;  // what those for budgets do
  bool exact = true;
  std::optional<LinePrinter> lines;
  // Nothing is printed before the first row is known: the flags may be to blame for there being none.
  plan_rows(make_model, options, defaults, device, depth, [&](const PlanRow& row) {
    if (!base) {
      out << model << " on " << options.data << ", batches of " << run_length(options).batch_size << ", " << device
          << ": a training step, in MiB at its peak\n\n";
      lines.emplace(out, headings, width_of_names(options));
      base = row;
    }
    lines->print(cells(row, *base, limits));
    if (row.planned) plans += concat_text(row.policy, ": ", describe(row.recipes), "\n");
    if (!row.note.empty()) plans += row.note + "\n";
    exact = exact && row.recipes.inexact == 0;
  });
  if (!exact) out << "\nNot exact: values are solved for, up to rounding without --grid.\n";
  if (!plans.empty()) out << '\n' << plans;
  if (limits)
    out << "\nLargest batch and depth: each alone, within " << options.budget << "; a budget's, within that budget.\n";
  if (is_budget(options.memory)) return;
  MetaTraining training(make_model, options, defaults, device);
  out << "\nBlocks under " << options.memory << ":\n";
  print_blocks(out, training.model(), memory::parse_rules(options.memory));
}

}  // namespace palimpsest::harness
