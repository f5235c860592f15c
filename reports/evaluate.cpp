#include <palimpsest/reports/evaluate.hpp>

#include <algorithm>
#include <array>
#include <iomanip>
#include <optional>

#include <palimpsest/core/error.hpp>
#include <palimpsest/core/number_text.hpp>
#include <palimpsest/core/whole_file.hpp>
#include <palimpsest/reports/advice.hpp>
#include <palimpsest/reports/step_pictures.hpp>
#include <palimpsest/train/weights.hpp>

namespace palimpsest::reports {
namespace {

/// A table of more classes is in the report alone.
constexpr std::int64_t most_classes_in_words = 20;

train::Forecast checked_forecast(const train::Task& task, const train::Options& options) {
  train::Forecast forecast = train::rehearse_evaluation_alone(task, options);
  const std::size_t there = left_on(options.device);
  if (forecast.evaluation.total <= there) return forecast;
  throw OutOfMemory(concat_text("an evaluation with ", options.names.batch_size, " ", options.batch_size, " needs ",
                                format_mebibytes(forecast.evaluation.total), ", ", options.device, " has ",
                                format_mebibytes(there), " left; try a smaller one"));
}

/// A field of a table in CSV (RFC 4180).
std::string csv_field(const std::string& text) {
  if (text.find_first_of(",\"\r\n") == std::string::npos) return text;
  std::string quoted = "\"";
  for (const char c : text) quoted += c == '"' ? "\"\"" : std::string(1, c);
  return quoted + '"';
}

void print_line(std::ostream& out, const std::string& name, const std::string& what) {
  out << "  " << std::left << std::setw(14) << name << std::right << ' ' << what << '\n';
}

/// A row for each label, a column for each prediction.
void print_confusion(std::ostream& out, const train::ClassResults& results) {
  if (results.classes() > most_classes_in_words) return;
  constexpr int width = 6;
  out << "  label \\ taken for\n" << std::setw(width + 2) << "";
  for (std::int64_t predicted = 0; predicted < results.classes(); ++predicted) out << std::setw(width) << predicted;
  out << '\n';
  for (std::int64_t label = 0; label < results.classes(); ++label) {
    out << std::setw(width + 2) << label;
    for (std::int64_t predicted = 0; predicted < results.classes(); ++predicted) {
      out << std::setw(width) << results.count(label, predicted);
    }
    out << '\n';
  }
}

void print_evaluation(std::ostream& out, const RunReport& report) {
  const train::Task& task = report.task;
  out << task.name << " on " << task.evaluation.name << ": " << report.evaluated.value_or(0) << ' ' << task.unit
      << " evaluated, " << report.forecast.parameters << " parameters, " << report.options.device << ", "
      << report.threads << (report.threads == 1 ? " thread\n" : " threads\n");
  print_line(out, "test " + task.metric, train::format_metric(task, *report.record.metric()));
  const std::optional<double> top5 = report.classes ? report.classes->top5_accuracy() : std::nullopt;
  if (top5) print_line(out, "in the top 5", train::format_metric(task, *top5));
  print_left_out(out, report);
  print_line(out, "peak memory", format_mebibytes(report.evaluation_peak.total));
  print_line(out, "state digest", report.state_digest);
  if (report.classes) print_confusion(out, *report.classes);
  out << std::flush;
}

}  // namespace

void check(const train::Options& options, const EvaluationFiles& files) {
  const std::array<std::string, 2> names = {files.report, files.predictions};
  for (const std::string& name : names) WholeFile{name};
  check_files_differ(names);
  if (!options.weights.empty()) const storage::SafetensorsReader readable(options.weights);
}

bool evaluate(std::ostream& out, const train::Task& task, const train::Options& options, const EvaluationFiles& files,
              std::vector<Field> fields) {
  check(options, files);
  if (task.evaluation.samples == 0) throw ValueError(concat_text(task.name, " has no data to be evaluated with"));
  if (!files.predictions.empty() && task.class_scores == nullptr) {
    throw ValueError(concat_text("the task ", task.name, " has no class_scores to write predictions of"));
  }
  const train::Forecast forecast = checked_forecast(task, options);
  train::Task alone = task;
  alone.training.open = nullptr;  // the forecast counts nothing for these data
  train::Trainer trainer(alone, options, {});
  std::optional<train::ClassResults> classes;
  if (task.class_scores != nullptr) classes.emplace();
  const bool whole =
      trainer.evaluate([&](const Tensor& scores, const Tensor& labels) { classes->add(scores, labels); }).has_value();
  if (!whole) return false;
  RunReport report = report_of(task, options, forecast, trainer, std::move(fields));
  report.peak = {};  // of steps, of which there were none
  report.classes = std::move(classes);
  report.file = files.report;
  print_evaluation(out, report);
  WholeFile(files.report).write(to_json(report));
  if (!files.predictions.empty()) WholeFile(files.predictions).write(predictions_csv(*report.classes, task.evaluation));
  return true;
}

std::string predictions_csv(const train::ClassResults& results, const train::Data& data) {
  std::string text = concat_text("sample,label,predicted,probability", data.file_of ? ",file\n" : "\n");
  for (const train::Prediction& each : results.predictions()) {
    text += concat_text(each.sample, ',', each.label, ',');
    text += each.predicted < 0 ? "," : concat_text(each.predicted, ',', number_text(each.probability));
    if (data.file_of) text += ',' + csv_field(data.file_of(each.sample));
    text += '\n';
  }
  return text;
}

}  // namespace palimpsest::reports
