#include <palimpsest/reports/run_page.hpp>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <string_view>

#include <palimpsest/core/error.hpp>
#include <palimpsest/reports/html_page.hpp>

namespace palimpsest::reports {

/// page/run_page.html with its style sheets and scripts, put together by page/embed.py in the build.
extern const std::string_view run_page_template;

namespace {

using Json = nlohmann::ordered_json;

constexpr std::size_t most_points = 10'000;

/// One number for each `size` consecutive ones of a column, and for what is left at its end.
template <class Number, class Join>
Json grouped(const std::vector<Number>& column, std::size_t size, const Join& join) {
  Json points = Json::array();
  for (std::size_t i = 0; i < column.size(); i += size) {
    points.push_back(join(column.begin() + static_cast<std::ptrdiff_t>(i),
                          column.begin() + static_cast<std::ptrdiff_t>(std::min(i + size, column.size()))));
  }
  return points;
}

const auto last = [](auto begin, auto end) { return begin == end ? *begin : *(end - 1); };
const auto highest = [](auto begin, auto end) { return *std::max_element(begin, end); };
/// The mean of those that are numbers; one alone stays as it is, to the bit.
const auto mean = [](auto begin, auto end) -> double {
  double sum = 0;
  int count = 0;
  for (auto each = begin; each != end; ++each) {
    if (std::isnan(*each)) continue;
    sum += *each;
    ++count;
  }
  return count > 0 ? sum / count : std::nan("");
};

/// NaN if none is a number.
double median(std::vector<double> numbers) {
  std::erase_if(numbers, [](double number) { return std::isnan(number); });
  if (numbers.empty()) return std::nan("");
  const auto middle = numbers.begin() + static_cast<std::ptrdiff_t>(numbers.size() / 2);
  std::nth_element(numbers.begin(), middle, numbers.end());
  return *middle;
}

Json summary_of(const RunHistory& run) {
  const auto best = std::max_element(run.metrics.begin(), run.metrics.end());
  Json summary = {{"steps", run.steps.empty() ? 0 : run.steps.back()},
                  {"loss", run.losses.empty() ? Json(nullptr) : Json(run.losses.back())},
                  {"rate", median(run.rates)},
                  {"peak", run.peaks.empty() ? 0 : *std::max_element(run.peaks.begin(), run.peaks.end())},
                  {"metric", nullptr},
                  {"best", nullptr},
                  {"best_step", nullptr}};
  if (run.metrics.empty()) return summary;
  summary["metric"] = run.metrics.back();
  summary["best"] = *best;
  summary["best_step"] = run.evaluated_steps[static_cast<std::size_t>(best - run.metrics.begin())];
  return summary;
}

Json json_of(const RunHistory& run) {
  const std::size_t size = std::max<std::size_t>((run.steps.size() + most_points - 1) / most_points, 1);
  return {{"name", run.name},
          {"facts", Json::parse(to_json(run.facts))},
          {"summary", summary_of(run)},
          {"steps_of_a_point", size},
          {"steps", grouped(run.steps, size, last)},
          {"loss", grouped(run.losses, size, mean)},
          {"learning_rate", grouped(run.learning_rates, size, last)},
          {"rate", grouped(run.rates, size, mean)},
          {"peak", grouped(run.peaks, size, highest)},
          {"evaluated", run.evaluated_steps},
          {"metric", run.metrics}};
}

}  // namespace

std::string run_page_data(const std::vector<RunHistory>& runs) {
  Json list = Json::array();
  for (const RunHistory& run : runs) list.push_back(json_of(run));
  return Json{{"runs", std::move(list)}}.dump(-1, ' ', false, Json::error_handler_t::replace);
}

std::string run_page(const std::vector<RunHistory>& runs) {
  if (runs.empty()) throw ValueError("a page of runs needs at least one of them");
  const LogFacts& facts = runs[0].facts;
  const std::string title = runs.size() > 1 ? concat_text(runs.size(), " training runs")
                                            : concat_text("Training of ", facts.model, " under ", facts.policy);
  return html_page(run_page_template, title, run_page_data(runs));
}

}  // namespace palimpsest::reports
