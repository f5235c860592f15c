#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include <palimpsest/train/options.hpp>

namespace palimpsest::reports {

/// The facts that a log has beside its rows.
struct LogFacts {
  std::string model = "";
  std::string policy = "";
  std::string device = "";
  std::string data = "";
  std::int64_t batch_size = 0;
  std::int64_t steps = 0;  ///< of the whole run, as far as is known; 0: not known
  std::int64_t steps_per_epoch = 0;
  std::string unit = "samples";     ///< the name of samples
  std::string metric = "accuracy";  ///< the name of what evaluations measure
  bool metric_is_share = true;      ///< shown in per cent
};

/// The facts of a run of a task. Throws ValueError as train::run_length.
LogFacts log_facts(const train::Task& task, const train::Options& options);

/// A log as it was read: the columns of its steps, which are in order, and of its evaluations.
struct RunHistory {
  std::string name = "";  ///< of the folder
  LogFacts facts = {};
  std::vector<std::int64_t> steps = {};  ///< from 1
  std::vector<double> losses = {};
  std::vector<double> learning_rates = {};
  std::vector<double> rates = {};       ///< samples per second; NaN where the time was not known
  std::vector<std::size_t> peaks = {};  ///< bytes
  std::vector<std::int64_t> evaluated_steps = {};
  std::vector<double> metrics = {};
};

/// Reads the log in a folder, also of a run that goes on or was killed: rows without an end are left out. Throws
/// DataError, naming the file and the line, where there is none or one that is no log.
RunHistory read_log(const std::string& folder);

/// The names of a log's files in its folder.
struct LogNames {
  static constexpr const char* facts = "run.json";
  static constexpr const char* steps = "steps.csv";
  static constexpr const char* evaluations = "evaluations.csv";
  static constexpr const char* lines = "metrics.jsonl";
  static constexpr const char* events = "events.out.tfevents.palimpsest";
  static constexpr const char* page = "run.html";
};

/// The first line of steps.csv and of evaluations.csv.
std::string steps_header(const LogFacts& facts);
std::string evaluations_header(const LogFacts& facts);
/// The keys of a log's numbers, which are those of a run's report: "images_per_second", "test_accuracy".
std::string rate_key(const LogFacts& facts);
std::string metric_key(const LogFacts& facts);

/// The facts as run.json has them.
std::string to_json(const LogFacts& facts);

}  // namespace palimpsest::reports
