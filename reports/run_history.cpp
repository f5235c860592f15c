#include <palimpsest/reports/run_history.hpp>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <nlohmann/json.hpp>
#include <optional>
#include <string_view>

#include <palimpsest/core/error.hpp>

namespace palimpsest::reports {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

/// A name as a field of CSV (RFC 4180).
std::string csv_field(const std::string& name) {
  if (name.find_first_of(",\"\n\r") == std::string::npos) return name;
  std::string quoted = "\"";
  for (const char letter : name) quoted += letter == '"' ? std::string("\"\"") : std::string(1, letter);
  return quoted + '"';
}

std::string text_of(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  std::string text{std::istreambuf_iterator<char>(in), {}};
  if (!in) throw DataError(concat_text("cannot read ", path.string(), ", a file of the log of a run"));
  return text;
}

LogFacts facts_in(const fs::path& path) {
  try {
    const Json json = Json::parse(text_of(path));
    return {.model = json.at("model"),
            .policy = json.at("policy"),
            .device = json.at("device"),
            .data = json.at("data"),
            .batch_size = json.at("batch_size"),
            .steps = json.at("steps"),
            .steps_per_epoch = json.at("steps_per_epoch"),
            .unit = json.at("unit"),
            .metric = json.at("metric"),
            .metric_is_share = json.at("metric_is_share")};
  } catch (const Json::exception& error) {
    throw DataError(concat_text(path.string(), " is no description of a run: ", error.what()));
  }
}

/// Reads fields one after the other; an empty one is NaN.
class Fields {
 public:
  explicit Fields(std::string_view line) : rest_(line) {}

  template <class Number>
  bool next(Number& number) {
    const std::size_t end = std::min(rest_.find(','), rest_.size());
    const std::string_view field = rest_.substr(0, end);
    rest_.remove_prefix(std::min(end + 1, rest_.size()));
    if constexpr (std::is_floating_point_v<Number>) {
      number = std::nan("");
      if (field.empty()) return true;
    }
    const auto [stop, error] = std::from_chars(field.data(), field.data() + field.size(), number);
    return error == std::errc() && stop == field.data() + field.size();
  }
  bool at_end() const { return rest_.empty(); }

 private:
  std::string_view rest_;
};

/// Calls `take` with each whole line but the first, which has to be `header`; `take` says whether it could read it.
void for_each_row(const fs::path& path, const std::string& header, const std::function<bool(Fields)>& take) {
  const std::string text = text_of(path);
  std::size_t number = 0;
  for (std::size_t begin = 0, end = 0; (end = text.find('\n', begin)) != std::string::npos; begin = end + 1) {
    const std::string_view line = std::string_view(text).substr(begin, end - begin);
    const bool understood = ++number == 1 ? line == header : take(Fields(line));
    if (!understood) {
      throw DataError(
          concat_text(path.string(), ", line ", number, ": '", line.substr(0, 80), "' does not fit ", header));
    }
  }
}

}  // namespace

LogFacts log_facts(const train::Task& task, const train::Options& options) {
  const train::RunLength length = run_length(task, options);
  return {.model = task.name,
          .policy = options.memory,
          .device = std::string(to_string(options.device)),
          .data = task.training.name,
          .batch_size = length.batch_size,
          .steps = length.steps,
          .steps_per_epoch = length.steps_per_epoch,
          .unit = task.unit,
          .metric = task.metric,
          .metric_is_share = task.metric_is_share};
}

std::string rate_key(const LogFacts& facts) { return facts.unit + "_per_second"; }
std::string metric_key(const LogFacts& facts) { return "test_" + facts.metric; }

std::string steps_header(const LogFacts& facts) {
  return "step,loss,learning_rate," + csv_field(rate_key(facts)) + ",peak_bytes";
}
std::string evaluations_header(const LogFacts& facts) { return "step," + csv_field(metric_key(facts)); }

std::string to_json(const LogFacts& facts) {
  const Json json = {{"model", facts.model},
                     {"policy", facts.policy},
                     {"device", facts.device},
                     {"data", facts.data},
                     {"batch_size", facts.batch_size},
                     {"steps", facts.steps},
                     {"steps_per_epoch", facts.steps_per_epoch},
                     {"unit", facts.unit},
                     {"metric", facts.metric},
                     {"metric_is_share", facts.metric_is_share}};
  return json.dump(1) + "\n";
}

RunHistory read_log(const std::string& folder) {
  const fs::path path = fs::path(folder).lexically_normal();
  RunHistory run{.name = (path.has_filename() ? path : path.parent_path()).filename().string(),
                 .facts = facts_in(path / LogNames::facts)};
  for_each_row(path / LogNames::steps, steps_header(run.facts), [&](Fields row) {
    return row.next(run.steps.emplace_back()) && row.next(run.losses.emplace_back()) &&
           row.next(run.learning_rates.emplace_back()) && row.next(run.rates.emplace_back()) &&
           row.next(run.peaks.emplace_back()) && row.at_end();
  });
  for_each_row(path / LogNames::evaluations, evaluations_header(run.facts), [&](Fields row) {
    return row.next(run.evaluated_steps.emplace_back()) && row.next(run.metrics.emplace_back()) && row.at_end();
  });
  return run;
}

}  // namespace palimpsest::reports
