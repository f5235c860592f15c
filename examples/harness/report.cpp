#include "examples/harness/report.hpp"

#include <iomanip>
#include <sstream>

#include "examples/harness/image_data.hpp"

namespace palimpsest::harness {
namespace {

Json json_of(const MemoryPeak& peak) {
  Json json = {{"total", peak.total}, {"reserved", peak.reserved}};
  for (int tag = 0; tag < tag_count; ++tag) {
    json[std::string(to_string(static_cast<Tag>(tag)))] = peak.by_tag[static_cast<std::size_t>(tag)];
  }
  return json;
}

Json json_of(const std::vector<StepResult>& steps) {
  Json json = Json::array();
  for (const StepResult& step : steps) json.push_back({{"loss", step.loss}, {"ms", step.milliseconds}});
  return json;
}

Json json_of(const std::vector<Evaluation>& evaluations) {
  Json json = Json::array();
  for (const Evaluation& each : evaluations) json.push_back({{"step", each.step}, {"accuracy", each.accuracy}});
  return json;
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

}  // namespace

Json to_json(const Report& report) {
  const Options& options = report.options;
  Json json = {{"model", report.model},
               {"parameters", report.forecast.parameters},
               {"policy", options.memory},
               {"device", report.device},
               {"data", options.data},
               {"batch_size", options.batch_size},
               {"seed", options.seed},
               {"threads", options.threads},
               {"steps", json_of(report.record.steps)},
               {"images_per_second", report.record.images_per_second()},
               {"peak_bytes", json_of(report.peak)},
               {"state_digest", report.state_digest},
               {"test_accuracy", nullptr}};
  if (report.record.accuracy()) json["test_accuracy"] = *report.record.accuracy();
  json["interrupted"] = report.record.interrupted;
  json["evaluations"] = json_of(report.record.evaluations);
  json["predicted_peak_bytes"] = report.forecast.peak.total;
  json["predicted_reserved_bytes"] = report.forecast.reserved;
  json["evaluation_peak_bytes"] = json_of(report.evaluation_peak);
  json["predicted_evaluation_peak_bytes"] = report.forecast.evaluation.total;
  json["vm_hwm_bytes"] = report.resident;
  json["offloaded_peak_bytes"] = report.offloaded.peak;
  json["offload_reserved_bytes"] = report.offloaded.reserved;
  json["precision"] = options.precision;
  json["verify"] = options.verify;
  json["device_name"] = report.card ? Json(report.card->name) : Json(nullptr);
  json["device_used_bytes"] = report.card ? Json(report.card->used_bytes) : Json(nullptr);
  json["learning_rate"] = options.learning_rate;
  json["schedule"] = options.schedule;
  json["augment"] = options.augment;
  json.update(report.model_flags);
  return json;
}

void print_summary(std::ostream& out, const Report& report) {
  const Options& options = report.options;
  const RunRecord& record = report.record;
  out << report.model << " on " << options.data << ": " << with_commas(report.forecast.parameters)
      << " parameters, policy " << options.memory << ", " << report.device << ", " << options.threads
      << (options.threads == 1 ? " thread\n" : " threads\n");
  out << "  steps          " << with_commas(static_cast<std::int64_t>(record.steps.size())) << " of "
      << with_commas(run_length(options).steps) << " with batches of " << options.batch_size << ", "
      << fixed(record.images_per_second(), 1) << " images/s" << (record.interrupted ? " (interrupted)" : "") << '\n';
  if (!record.steps.empty()) out << "  loss           " << fixed(record.steps.back().loss, 6) << " in the last step\n";
  if (record.accuracy()) out << "  test accuracy  " << fixed(*record.accuracy() * 100, 2) << " %\n";
  out << "  peak memory    " << format_mebibytes(report.peak.total) << ": " << format_tags(report.peak.by_tag) << '\n';
  out << "  reserved       " << format_mebibytes(report.peak.reserved) << "; the process's peak is "
      << format_mebibytes(report.resident) << '\n';
  if (report.offloaded.peak > 0) {
    const std::string where = report.card ? "pinned host memory" : "a file in " + memory::offload_directory();
    out << "  offloaded      " << format_mebibytes(report.offloaded.peak) << " at once, to " << where << " of "
        << format_mebibytes(report.offloaded.reserved) << '\n';
  }
  if (report.card) {
    out << "  card           " << report.card->name << "; " << format_mebibytes(report.card->used_bytes)
        << " of it in use\n";
  }
  out << "  state digest   " << report.state_digest << std::endl;
}

}  // namespace palimpsest::harness
