#include "examples/harness/plan_table.hpp"

#include <algorithm>
#include <functional>
#include <iomanip>
#include <map>
#include <sstream>

#include "examples/harness/blame_flags.hpp"
#include "examples/harness/dry_run.hpp"
#include "memory/policies.hpp"

namespace palimpsest::harness {
namespace {

constexpr std::int64_t most_batch = 65536;
constexpr std::int64_t most_depths = 2000;  // of a row

/// The last of 1 .. most for which `fits`, which is to hold up to some number and not beyond; 0 if there is none.
std::int64_t last_that_fits(std::int64_t most, const std::function<bool(std::int64_t)>& fits) {
  std::int64_t good = 0;
  std::int64_t bad = 1;
  while (bad <= most && fits(bad)) {
    good = bad;
    bad *= 2;
  }
  bad = std::min(bad, most + 1);
  while (bad - good > 1) {
    const std::int64_t middle = good + (bad - good) / 2;
    (fits(middle) ? good : bad) = middle;
  }
  return good;
}

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

  std::vector<PlanRow> rows(const std::optional<DepthFlag>& depth) {
    std::vector<PlanRow> rows;
    for (const PolicyPtr& policy : memory::combinations()) {
      const MemoryChoice choice{{{"*", policy}}, nullptr, 0};
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
      }
    }
    const auto same = [&](const PlanRow& row) { return row.policy == options_.memory; };
    if (std::none_of(rows.begin(), rows.end(), same)) {
      const MemoryChoice choice = choose_memory(make_model_, options_, defaults_, device_);
      rows.push_back(row(options_.memory, choice));
      limits(rows.back(), {choice.rules, choice.planned, 0}, choice.planned == nullptr ? depth : std::nullopt);
    }
    if (budget_ != 0 && !is_budget(options_.memory)) rows.push_back(budget_row());
    return rows;
  }

 private:
  static bool alike(const PlanRow& a, const PlanRow& b) {
    return a.forecast.peak == b.forecast.peak && a.forecast.seconds == b.forecast.seconds;
  }

  PlanRow row(const std::string& name, const MemoryChoice& choice) {
    MetaTraining training(make_model_, options_, defaults_, device_);
    choice.apply(training.model());
    return {name, memory::forecast(training.rehearsal(), nullptr, rates_), std::nullopt, std::nullopt};
  }

  /// Plans follow the order of ops, which the batch does not change: the thriftiest plan says what batch is possible.
  PlanRow budget_row() {
    MetaTraining training(make_model_, options_, defaults_, device_);
    const memory::Planner planner(training.rehearsal(), rates_, may_offload(options_, device_));
    const memory::Candidate* chosen = &planner.candidates().front();
    const bool fits = chosen->forecast.peak <= budget_;
    if (fits) chosen = &planner.within(budget_);
    PlanRow found{(fits ? "budget=" : "least, above ") + options_.budget, chosen->forecast, std::nullopt, std::nullopt};
    limits(found, {{}, planner.candidates().front().policy, 0}, std::nullopt);
    return found;
  }

  void limits(PlanRow& row, const MemoryChoice& choice, const std::optional<DepthFlag>& depth) {
    if (budget_ == 0) return;
    Options all = options_;
    all.batch_size = most_batch;
    const std::int64_t images = run_length(all).batch_size;
    row.largest_batch = last_that_fits(images, [&](std::int64_t batch) {
      Options other = options_;
      other.batch_size = batch;
      return fits(other, choice);
    });
    if (!depth) return;
    const std::int64_t given = *depth->value;
    const std::int64_t count = last_that_fits(most_depths, [&](std::int64_t number) {
      *depth->value = depth->first + (number - 1) * depth->step;
      return fits(options_, choice);
    });
    *depth->value = given;
    row.largest_depth = count == 0 ? 0 : depth->first + (count - 1) * depth->step;
  }

  bool fits(const Options& options, const MemoryChoice& choice) {
    const Forecast forecast = dry_run(make_model_, choice, options, defaults_, device_);
    return std::max(forecast.peak.total, forecast.evaluation.total) <= budget_;
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

std::string number_or_dash(const std::optional<std::int64_t>& number) {
  return !number ? "-" : *number == 0 ? "none" : std::to_string(*number);
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
                                    percent_more(row.forecast.seconds, base.forecast.seconds)};
  if (limits) {
    texts.push_back(number_or_dash(row.largest_batch));
    texts.push_back(number_or_dash(row.largest_depth));
  }
  return texts;
}

void print_table(std::ostream& out, const std::vector<std::vector<std::string>>& lines) {
  std::vector<std::size_t> widths(lines[0].size());
  for (const auto& line : lines) {
    for (std::size_t i = 0; i < line.size(); ++i) widths[i] = std::max(widths[i], line[i].size());
  }
  for (const auto& line : lines) {
    out << std::left << std::setw(static_cast<int>(widths[0])) << line[0] << std::right;
    for (std::size_t i = 1; i < line.size(); ++i) out << "  " << std::setw(static_cast<int>(widths[i])) << line[i];
    out << '\n';
  }
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
                               Device device, const std::optional<DepthFlag>& depth) {
  return blame_flags([&] { return Table(make_model, options, defaults, device).rows(depth); });
}

void print_plan(std::ostream& out, const std::string& model, const std::vector<PlanRow>& rows,
                const MakeModel& make_model, const Options& options, const TrainingDefaults& defaults, Device device) {
  out << model << " on " << options.data << ", batches of " << run_length(options).batch_size << ", " << device
      << ": a training step, in MiB at its peak\n\n";
  std::vector<std::vector<std::string>> lines = {{"policy", "peak", "activation", "gradient", "arena", "workspace",
                                                  "other", "GFLOP", "more than store-all", "predicted time"}};
  const bool limits = rows.front().largest_batch.has_value();
  if (limits) {
    lines[0].push_back("largest batch");
    lines[0].push_back("largest depth");
  }
  for (const PlanRow& row : rows) lines.push_back(cells(row, rows.front(), limits));
  print_table(out, lines);
  if (limits) out << "\nLargest batch and depth: alone, within " << options.budget << ".\n";
  if (is_budget(options.memory)) return;
  MetaTraining training(make_model, options, defaults, device);
  out << "\nBlocks under " << options.memory << ":\n";
  print_blocks(out, training.model(), memory::parse_rules(options.memory));
}

}  // namespace palimpsest::harness
