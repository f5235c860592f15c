#include <palimpsest/reports/run_report.hpp>

#include <algorithm>
#include <iomanip>
#include <nlohmann/json.hpp>
#include <sstream>

#include <palimpsest/core/device.hpp>
#include <palimpsest/core/parallel.hpp>

namespace palimpsest::reports {
namespace {

using Json = nlohmann::ordered_json;

Json json_of(const train::MemoryPeak& peak) {
  Json json = {{"total", peak.total}, {"reserved", peak.reserved}};
  for (int tag = 0; tag < tag_count; ++tag) {
    json[std::string(to_string(static_cast<Tag>(tag)))] = peak.by_tag[static_cast<std::size_t>(tag)];
  }
  return json;
}

Json json_of(const std::vector<train::StepResult>& steps) {
  Json json = Json::array();
  for (const train::StepResult& step : steps) json.push_back({{"loss", step.loss}, {"ms", step.milliseconds}});
  return json;
}

Json json_of(const std::vector<train::Evaluation>& evaluations, const std::string& metric) {
  Json json = Json::array();
  for (const train::Evaluation& each : evaluations) json.push_back({{"step", each.step}, {metric, each.metric}});
  return json;
}

Json json_of(const Field& field) {
  const auto json = [](const auto& value) -> Json {
    if constexpr (std::is_same_v<decltype(value), const std::monostate&>) {
      return nullptr;
    } else {
      return value;
    }
  };
  return std::visit(json, field.value);
}

/// The table is a list of rows, one for each label, of samples by what they were taken for.
void add_classes(Json& json, const train::ClassResults& classes, const std::string& metric) {
  const std::optional<double> top5 = classes.top5_accuracy();
  json["test_top5_" + metric] = top5 ? Json(*top5) : Json(nullptr);
  Json table = Json::array();
  for (std::int64_t label = 0; label < classes.classes(); ++label) {
    Json row = Json::array();
    for (std::int64_t taken = 0; taken < classes.classes(); ++taken) row.push_back(classes.count(label, taken));
    table.push_back(std::move(row));
  }
  json["confusion"] = std::move(table);
}

std::optional<Card> card_of(Device device) {
  if (device != Device::Cuda) return std::nullopt;
  const DeviceMemory memory = cuda_device_memory();
  return Card{cuda_device_name(), memory.total - memory.free};
}

std::string fixed(double value, int digits) {
  std::ostringstream out;
  out << std::fixed << std::setprecision(digits) << value;
  return out.str();
}

/// "1,234,567".
std::string with_commas(std::int64_t number) {
  const std::string digits = std::to_string(number);
  std::string text;
  for (std::size_t i = 0; i < digits.size(); ++i) {
    if (i > 0 && (digits.size() - i) % 3 == 0) text += ',';
    text += digits[i];
  }
  return text;
}

std::vector<std::string> left_out_of(const train::Data& data) {
  return data.left_out ? data.left_out() : std::vector<std::string>();
}

}  // namespace

RunReport report_of(const train::Task& task, const train::Options& options, const train::Forecast& forecast,
                    const train::Trainer& trainer, std::vector<Field> fields) {
  return {.task = task,
          .options = options,
          .card = card_of(options.device),
          .threads = thread_count(),
          .forecast = forecast,
          .record = trainer.record(),
          .peak = trainer.peak(),
          .evaluation_peak = trainer.evaluation_peak(),
          .offloaded = memory::offload_stats(options.device),
          .resident = train::peak_resident_bytes(),
          .data_share = trainer.data_share(),
          .left_out = left_out_of(task.training),
          .not_evaluated = left_out_of(task.evaluation),
          .evaluated = trainer.evaluated_samples(),
          .state_digest = trainer.model().state_digest(),
          .resumed_from = trainer.resumed_from(),
          .checkpoint = trainer.last_checkpoint(),
          .fields = std::move(fields)};
}

std::string to_json(const RunReport& report) {
  const auto& [task, options] = std::tie(report.task, report.options);
  const std::optional<double> metric = report.record.metric();
  Json json = {{"model", task.name},
               {"parameters", report.forecast.parameters},
               {"policy", options.memory},
               {"device", to_string(options.device)},
               {"data", task.training.name},
               {"batch_size", options.batch_size},
               {"seed", options.seed},
               {"threads", report.threads},
               {"steps", json_of(report.record.steps)},
               {task.unit + "_per_second", report.record.samples_per_second()},
               {"peak_bytes", json_of(report.peak)},
               {"state_digest", report.state_digest},
               {"test_" + task.metric, metric ? Json(*metric) : Json(nullptr)}};
  const train::RunRecord::KeptStreams kept = report.record.kept_streams();
  json["kept_streams"] = {{"streams", kept.streams},
                          {"steps", kept.steps},
                          {"first_step", kept.steps > 0 ? Json(kept.first + 1) : Json(nullptr)}};
  json["data_wait_share"] = report.data_share ? Json(*report.data_share) : Json(nullptr);
  json["left_out"] = report.left_out;
  json["evaluated"] = report.evaluated ? Json(*report.evaluated) : Json(nullptr);
  json["not_evaluated"] = report.not_evaluated;
  json["interrupted"] = report.record.interrupted;
  json["evaluations"] = json_of(report.record.evaluations, task.metric);
  json["predicted_peak_bytes"] = report.forecast.peak.total;
  json["predicted_reserved_bytes"] = report.forecast.reserved;
  json["evaluation_peak_bytes"] = json_of(report.evaluation_peak);
  json["predicted_evaluation_peak_bytes"] = report.forecast.evaluation.total;
  json["predicted_checkpoint_bytes"] = report.forecast.checkpoint;
  json["resumed_from"] = report.resumed_from.empty() ? Json(nullptr) : Json(report.resumed_from);
  json["checkpoint"] = report.checkpoint.empty() ? Json(nullptr) : Json(report.checkpoint);
  json["vm_hwm_bytes"] = report.resident;
  json["offloaded_peak_bytes"] = report.offloaded.peak;
  json["offload_reserved_bytes"] = report.offloaded.reserved;
  json["verify"] = to_string(options.verify);
  json["device_name"] = report.card ? Json(report.card->name) : Json(nullptr);
  json["device_used_bytes"] = report.card ? Json(report.card->used_bytes) : Json(nullptr);
  if (report.classes) add_classes(json, *report.classes, task.metric);
  for (const Field& field : report.fields) json[field.name] = json_of(field);
  return json.dump(1) + "\n";
}

namespace {

void print_offloaded(std::ostream& out, const RunReport& report) {
  if (report.offloaded.peak == 0) return;
  const std::string where = report.card
                                ? "pinned host memory"
                                : "a file in " + memory::offload_directory(train::offload_options(report.options));
  out << "  offloaded      " << format_mebibytes(report.offloaded.peak) << " at once, to " << where << " of "
      << format_mebibytes(report.offloaded.reserved) << '\n';
}

void print_progress(std::ostream& out, const RunReport& report) {
  const train::RunRecord& record = report.record;
  out << "  steps          " << with_commas(static_cast<std::int64_t>(record.steps.size())) << " of "
      << with_commas(run_length(report.task, report.options).steps) << " with batches of " << report.options.batch_size
      << ", " << fixed(record.samples_per_second(), 1) << ' ' << report.task.unit << "/s"
      << (record.interrupted ? " (interrupted)" : "") << '\n';
  if (const train::RunRecord::KeptStreams kept = record.kept_streams(); kept.steps > 0) {
    out << "  kept streams   " << kept.streams << " in " << kept.steps << (kept.steps == 1 ? " step" : " steps")
        << ", first in step " << kept.first + 1 << ": they left the range of " << report.options.names.grid << '\n';
  }
  if (!record.steps.empty()) out << "  loss           " << fixed(record.steps.back().loss, 6) << " in the last step\n";
  if (!record.metric()) return;
  out << "  " << std::left << std::setw(14) << "test " + report.task.metric << std::right << ' '
      << train::format_metric(report.task, *record.metric()) << '\n';
}

/// The first of the samples, a line each.
void print_some(std::ostream& out, const std::vector<std::string>& samples, const std::string& report) {
  constexpr std::size_t most = 10;
  for (std::size_t i = 0; i < std::min(most, samples.size()); ++i) out << "    " << samples[i] << '\n';
  if (samples.size() <= most) return;
  out << "    and " << samples.size() - most << " more" << (report.empty() ? "" : ", which are in " + report) << '\n';
}

}  // namespace

void print_left_out(std::ostream& out, const RunReport& report) {
  const std::string& unit = report.task.unit;
  if (!report.left_out.empty()) {
    out << "  left out       " << report.left_out.size() << ' ' << unit
        << " that could not be read; others were taken for them\n";
    print_some(out, report.left_out, report.file);
  }
  if (!report.not_evaluated.empty()) {
    out << "  not evaluated  " << report.not_evaluated.size() << " of " << report.task.evaluation.samples << ' ' << unit
        << ", which could not be read\n";
    print_some(out, report.not_evaluated, report.file);
  }
}

void print_summary(std::ostream& out, const RunReport& report) {
  out << report.task.name << " on " << report.task.training.name << ": " << with_commas(report.forecast.parameters)
      << " parameters, policy " << report.options.memory << ", " << report.options.device << ", " << report.threads
      << (report.threads == 1 ? " thread\n" : " threads\n");
  print_progress(out, report);
  out << "  peak memory    " << format_mebibytes(report.peak.total) << ": " << format_tags(report.peak.by_tag) << '\n';
  out << "  reserved       " << format_mebibytes(report.peak.reserved) << "; the process's peak is "
      << format_mebibytes(report.resident) << '\n';
  print_offloaded(out, report);
  if (report.card) {
    out << "  card           " << report.card->name << "; " << format_mebibytes(report.card->used_bytes)
        << " of it in use\n";
  }
  print_left_out(out, report);
  if (!report.checkpoint.empty()) out << "  checkpoint     " << report.checkpoint << '\n';
  out << "  state digest   " << report.state_digest << std::endl;
}

}  // namespace palimpsest::reports
