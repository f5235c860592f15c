#include <palimpsest/reports/plan_table.hpp>

#include <algorithm>
#include <iomanip>
#include <map>
#include <sstream>

#include <palimpsest/core/error.hpp>
#include <palimpsest/memory/policies.hpp>
#include <palimpsest/train/rehearsal.hpp>
#include <palimpsest/train/weights.hpp>

namespace palimpsest::reports {
namespace {

using train::MemoryChoice;
using train::Options;
using train::Task;

constexpr std::int64_t most_batch = 65536;
constexpr std::int64_t most_layers = 1000;
// A planner rehearses a step about a hundred times.
constexpr int most_plans = 6;
constexpr std::int64_t most_planned_layers = 300;

/// The rows of a task's table and the searches for what fits.
class Table {
 public:
  Table(const Task& task, const Options& options, const PlanOptions& plan,
        const std::function<void(const PlanRow&)>& each)
      : task_(task), options_(options), plan_(plan), each_(each), rates_(train::rates_for(options)) {
    if (!plan.budget.empty()) budget_ = bytes_of(memory::Budget(plan.budget));
  }

  std::vector<PlanRow> rows() {
    for (const PolicyPtr& policy : memory::combinations()) add_policy(policy);
    const std::optional<memory::Budget> own = memory::parse(options_.memory).budget();
    if (!own && !has_row(options_.memory)) add(options_.memory, train::choose_memory(task_, options_));
    for (const memory::Budget& budget : budgets(own)) finish(budget_row(budget));
    return rows_;
  }

 private:
  /// Nothing for a policy that has nothing to act on, and for a composed one that comes to the same as one of its
  /// parts.
  void add_policy(const PolicyPtr& policy) {
    const MemoryChoice choice{.rules = {{"*", policy}}};
    PlanRow made;
    try {
      made = row(std::string(policy->name()), task_, choice);
    } catch (const IdlePolicyError&) {
      return;
    }
    const auto alike = [&](const PlanRow& other) {
      return other.forecast.peak == made.forecast.peak && other.forecast.seconds == made.forecast.seconds;
    };
    if (std::none_of(rows_.begin(), rows_.end(), alike)) finish(with_limits(std::move(made), choice));
  }

  void add(const std::string& name, const MemoryChoice& choice) {
    finish(with_limits(row(name, task_, choice), choice));
  }

  void finish(PlanRow row) {
    rows_.push_back(std::move(row));
    if (each_) each_(rows_.back());
  }

  bool has_row(const std::string& policy) const {
    return std::any_of(rows_.begin(), rows_.end(), [&](const PlanRow& row) { return row.policy == policy; });
  }

  PlanRow row(const std::string& name, const Task& task, const MemoryChoice& choice) const {
    train::Rehearsal training(task, options_);
    choice.apply(training.model());
    const memory::Rehearsal rehearsal = training.step_under();
    return {.policy = name,
            .forecast = memory::forecast(rehearsal, nullptr, rates_),
            .recipes = memory::count_recipes(memory::rehearse(rehearsal, nullptr)),
            .planned = choice.planned != nullptr};
  }

  std::size_t bytes_of(const memory::Budget& budget) const { return budget.bytes(options_.device); }

  /// The budgets that have a row: the run's own, if it has one, and the table's.
  std::vector<memory::Budget> budgets(const std::optional<memory::Budget>& own) const {
    std::vector<memory::Budget> asked;
    if (own) asked.push_back(*own);
    if (budget_ != 0 && (!own || bytes_of(*own) != budget_)) asked.emplace_back(plan_.budget);
    return asked;
  }

  /// The row of a run under this budget, or the least that can be done; its limits are within that budget, whatever
  /// the table's is: a run keeps to it.
  PlanRow budget_row(const memory::Budget& budget) {
    Options asked = options_;
    asked.memory = "budget=" + budget.text();
    const MemoryChoice thriftiest = thriftiest_plan(task_, options_);
    PlanRow found;
    try {
      found = row(asked.memory, task_, train::choose_memory(task_, asked));
    } catch (const ValueError& error) {
      found = row("least, above " + budget.text(), task_, thriftiest);
      found.note = error.what();
    }
    if (budget_ == 0) return found;
    const std::size_t least = train::rehearse_bytes(task_, options_, thriftiest);
    found.largest_batch = planned_batch(bytes_of(budget), thriftiest, least);
    if (plan_.depths) found.largest_depth = planned_depth(bytes_of(budget), least);
    return found;
  }

  /// Plans follow the order of ops, which the batch does not change: this batch's thriftiest plan says what batch is
  /// possible at least, and the planner, which takes longer, whether it finds a way to larger ones.
  std::optional<LargestFit> planned_batch(std::size_t budget, const MemoryChoice& thriftiest, std::size_t least) const {
    FitSearch search =
        batches(budget, [&](const Options& options) { return train::rehearse_bytes(task_, options, thriftiest); });
    const std::int64_t possible = find_largest(search)->number;
    search = batches(budget, [&](const Options& options) { return thriftiest_bytes(task_, options); });
    search.known_fit = possible;
    search.known = {{search.start, least}};
    search.most_calls = most_plans;
    return largest_batch(search);
  }

  std::optional<LargestFit> planned_depth(std::size_t budget, std::size_t least) const {
    FitSearch search = depths(budget, std::max(most_planned_layers, plan_.depths->given),
                              [&](const Task& task) { return std::optional(thriftiest_bytes(task, options_)); });
    if (const std::int64_t deepest = depth_known_to_fit(budget); deepest != 0) search.known_fit = number_of(deepest);
    search.known = {{search.start, least}};
    search.most_calls = most_plans;
    return largest_depth(search);
  }

  /// A depth that a policy makes possible which the planner looks at, too; 0 for none.
  std::int64_t depth_known_to_fit(std::size_t budget) const {
    std::int64_t deepest = 0;
    for (const PlanRow& row : rows_) {
      const bool allowed = row.recipes.offloaded == 0 || train::plan_offloading(options_);
      const bool by_itself = row.policy != options_.memory && !row.planned;
      if (budget >= budget_ && allowed && by_itself && row.largest_depth) {
        deepest = std::max(deepest, row.largest_depth->number);
      }
    }
    return deepest;
  }

  MemoryChoice thriftiest_plan(const Task& task, const Options& options) const {
    train::Rehearsal training(task, options);
    const memory::Planner planner(training.step_under(), rates_, train::plan_offloading(options));
    return {.planned = planner.candidates().front().policy};
  }
  std::size_t thriftiest_bytes(const Task& task, const Options& options) const {
    return train::rehearse_bytes(task, options, thriftiest_plan(task, options));
  }

  PlanRow with_limits(PlanRow row, const MemoryChoice& choice) const {
    if (budget_ == 0) return row;
    row.largest_batch = largest_batch(
        batches(budget_, [&](const Options& options) { return train::rehearse_bytes(task_, options, choice); }));
    if (!plan_.depths) return row;
    const auto bytes = [&](const Task& task) -> std::optional<std::size_t> {
      try {
        return train::rehearse_bytes(task, options_, choice);
      } catch (const ValueError&) {
        return std::nullopt;  // a net so shallow that a pattern matches no block of it, or a policy finds nothing to do
      }
    };
    row.largest_depth = largest_depth(depths(budget_, std::max(most_layers, 2 * plan_.depths->given), bytes));
    return row;
  }

  /// Among the batches that a step adds up, of which there are as many as in the run.
  FitSearch batches(std::size_t budget, std::function<std::size_t(const Options&)> bytes) const {
    Options most = options_;
    most.batch_size = std::max<std::int64_t>(1, most_batch / options_.accumulate) * options_.accumulate;
    return {.budget = budget,
            .start = run_length(task_, options_).micro_batch,
            .most = run_length(task_, most).micro_batch,
            .bytes = [this, bytes = std::move(bytes)](std::int64_t batch) {
              Options other = options_;
              other.batch_size = batch * options_.accumulate;
              return std::optional(bytes(other));
            }};
  }

  std::optional<LargestFit> largest_batch(const FitSearch& search) const {
    std::optional<LargestFit> found = find_largest(search);
    if (found) found->number *= options_.accumulate;
    return found;
  }

  std::int64_t number_of(std::int64_t depth) const { return (depth - plan_.depths->first) / plan_.depths->step + 1; }
  std::int64_t depth_of(std::int64_t number) const { return plan_.depths->first + (number - 1) * plan_.depths->step; }

  FitSearch depths(std::size_t budget, std::int64_t deepest,
                   std::function<std::optional<std::size_t>(const Task&)> bytes) const {
    return {.budget = budget,
            .start = number_of(plan_.depths->given),
            .most = number_of(deepest),
            .bytes = [this, bytes = std::move(bytes)](std::int64_t number) {
              return bytes(plan_.depths->task(depth_of(number)));
            }};
  }

  std::optional<LargestFit> largest_depth(const FitSearch& search) const {
    std::optional<LargestFit> found = find_largest(search);
    if (!found) return std::nullopt;
    if (found->number >= search.most) found->exact = false;  // nothing but patience ends the search there
    if (found->number != 0) found->number = depth_of(found->number);
    return found;
  }

  const Task& task_;
  const Options& options_;
  const PlanOptions& plan_;
  const std::function<void(const PlanRow&)>& each_;
  memory::Rates rates_;
  std::size_t budget_ = 0;
  std::vector<PlanRow> rows_;
};

std::string fixed(double value, int digits) {
  std::ostringstream out;
  out << std::fixed << std::setprecision(digits) << value;
  return out.str();
}

std::string mebibytes(std::size_t bytes) { return fixed(static_cast<double>(bytes) / (1 << 20), 1); }

std::string percent_more(double value, double than) {
  const double percent = (value / than - 1) * 100;
  return concat_text(percent >= 0 ? "+" : "", fixed(percent, 1), " %");
}

std::string number_or_dash(const std::optional<LargestFit>& fit) {
  if (!fit) return "-";
  if (fit->number == 0) return "none";
  return concat_text(fit->exact ? "" : ">= ", fit->number);
}

std::vector<std::string> cells(const PlanRow& row, const PlanRow& base, const PlanOptions& plan) {
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
  if (!plan.budget.empty()) texts.push_back(number_or_dash(row.largest_batch));
  if (!plan.budget.empty() && plan.depths) texts.push_back(number_or_dash(row.largest_depth));
  return texts;
}

/// The length of the longest name that a row of the table may have.
std::size_t width_of_names(const Options& options, const PlanOptions& plan) {
  const std::size_t prefix = std::string_view("least, above ").size();
  std::size_t width = std::max(options.memory.size(), prefix + plan.budget.size());
  const std::optional<memory::Budget> own = memory::parse(options.memory).budget();
  if (own) width = std::max(width, prefix + own->text().size());
  for (const PolicyPtr& policy : memory::combinations()) width = std::max(width, policy->name().size());
  return width;
}

/// The block that a block is within, -1 for none: the longest other name that its own begins with.
int block_around(const std::vector<std::string>& blocks, std::size_t inner) {
  int found = -1;
  for (std::size_t i = 0; i < blocks.size(); ++i) {
    if (!blocks[inner].starts_with(blocks[i] + ".")) continue;
    if (found < 0 || blocks[i].size() > blocks[static_cast<std::size_t>(found)].size()) found = static_cast<int>(i);
  }
  return found;
}

/// "shared: dense1, dense2" for the policies that --memory gives; "checkpoint: stage1, stage1.unit1 (within stage1)".
void print_blocks(std::ostream& out, const nn::Module& model, const std::vector<memory::Rule>& rules) {
  const std::vector<std::string> blocks = model.block_names();
  const std::vector<PolicyPtr> policies = memory::assign(rules, blocks);
  std::map<std::string, std::string> names;
  for (std::size_t i = 0; i < blocks.size(); ++i) {
    const int around = block_around(blocks, i);
    int deciding = static_cast<int>(i);
    while (deciding >= 0 && policies[static_cast<std::size_t>(deciding)] == nullptr) {
      deciding = block_around(blocks, static_cast<std::size_t>(deciding));
    }
    std::string& text =
        names[deciding >= 0 ? std::string(policies[static_cast<std::size_t>(deciding)]->name()) : "store-all"];
    text += (text.empty() ? "" : ", ") + blocks[i];
    if (around >= 0) text += concat_text(" (within ", blocks[static_cast<std::size_t>(around)], ")");
  }
  for (const auto& [policy, text] : names) out << "  " << policy << ": " << text << '\n';
}

/// Headings, rows as they come, and the notes below them. Columns are as wide as their headings, but at least so much
/// as numbers take.
class Printer {
 public:
  Printer(std::ostream& out, const Task& task, const Options& options, const PlanOptions& plan)
      : out_(out), task_(task), options_(options), plan_(plan) {}

  /// Nothing is printed before the first row is known: the options may be to blame for there being none.
  void row(const PlanRow& row) {
    if (!base_) begin(row);
    print(cells(row, *base_, plan_));
    if (row.planned) plans_ += concat_text(row.policy, ": ", train::describe(row.recipes, options_.names), "\n");
    if (!row.note.empty()) plans_ += row.note + "\n";
    if (row.forecast.peak > base_->forecast.peak) above_ += (above_.empty() ? "" : ", ") + row.policy;
    exact_ = exact_ && row.recipes.inexact == 0;
  }

  void notes() const {
    if (!exact_) out_ << "\nNot exact: values are solved for, up to rounding without " << options_.names.grid << ".\n";
    if (!above_.empty()) out_ << "\nMore than store-all needs: " << above_ << ".\n";
    if (!plans_.empty()) out_ << '\n' << plans_;
    if (!limits()) return;
    out_ << (plan_.depths ? "\nLargest batch and depth: each alone, within " : "\nLargest batch: within ")
         << plan_.budget << "; a budget's, within that budget.\n";
  }

 private:
  bool limits() const { return !plan_.budget.empty(); }

  void begin(const PlanRow& first) {
    std::vector<std::string> headings = {
        "policy", "peak",  "activation",          "gradient",       "arena", "workspace",
        "other",  "GFLOP", "more than store-all", "predicted time", "exact"};
    if (limits()) headings.emplace_back("largest batch");
    if (limits() && plan_.depths) headings.emplace_back("largest depth");
    for (const std::string& heading : headings) widths_.push_back(std::max<std::size_t>(heading.size(), 7));
    widths_[0] = std::max(widths_[0], width_of_names(options_, plan_));
    out_ << task_.name << " on " << task_.training.name << ", batches of " << run_length(task_, options_).batch_size;
    if (options_.accumulate > 1) out_ << " in parts of " << run_length(task_, options_).micro_batch;
    out_ << ", " << options_.device << ": a training step, in MiB at its peak\n\n";
    print(headings);
    base_ = first;
  }

  void print(const std::vector<std::string>& line) const {
    out_ << std::left << std::setw(static_cast<int>(widths_[0])) << line[0] << std::right;
    for (std::size_t i = 1; i < line.size(); ++i) out_ << "  " << std::setw(static_cast<int>(widths_[i])) << line[i];
    out_ << std::endl;
  }

  std::ostream& out_;
  const Task& task_;
  const Options& options_;
  const PlanOptions& plan_;
  std::vector<std::size_t> widths_;
  std::optional<PlanRow> base_;
  std::string plans_;  // of budgets
  std::string above_;  // policies that need more than store-all
  bool exact_ = true;
};

}  // namespace

std::vector<PlanRow> plan_rows(const Task& task, const Options& options, const PlanOptions& plan,
                               const std::function<void(const PlanRow&)>& each) {
  return Table(task, options, plan, each).rows();
}

void print_plan(std::ostream& out, const Task& task, const Options& options, const PlanOptions& plan) {
  train::check_weights(task, options);  // a run would begin with them
  Printer printer(out, task, options, plan);
  plan_rows(task, options, plan, [&](const PlanRow& row) { printer.row(row); });
  printer.notes();
  const memory::Request asked = memory::parse(options.memory);
  if (asked.budget()) return;
  train::Rehearsal training(task, options);
  out << "\nBlocks under " << options.memory << ":\n";
  print_blocks(out, training.model(), asked.rules());
}

}  // namespace palimpsest::reports
