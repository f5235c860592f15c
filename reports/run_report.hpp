#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <ostream>
#include <string>
#include <variant>
#include <vector>

#include <palimpsest/memory/offload.hpp>
#include <palimpsest/train/class_results.hpp>
#include <palimpsest/train/rehearsal.hpp>
#include <palimpsest/train/run_record.hpp>
#include <palimpsest/train/trainer.hpp>

namespace palimpsest::reports {

/// A line of a report that a program adds: the value of an option or of a flag; monostate is null.
struct Field {
  std::string name;
  std::variant<std::monostate, bool, std::int64_t, double, std::string> value;
};

/// The card that a run was on.
struct Card {
  std::string name;
  std::size_t used_bytes;  ///< as its driver sees it: the reserved memory, the driver's own and what others hold
};

/// The facts about a run.
struct RunReport {
  train::Task task = {};
  train::Options options = {};
  std::optional<Card> card = std::nullopt;  ///< on CUDA
  int threads = 1;
  train::Forecast forecast = {};
  train::RunRecord record = {};
  train::MemoryPeak peak = {};             ///< of the training steps
  train::MemoryPeak evaluation_peak = {};  ///< of the evaluations; zero if there was none
  memory::OffloadStats offloaded = {};
  std::size_t resident = 0;                         ///< the process's own peak, VmHWM
  std::optional<double> data_share = std::nullopt;  ///< of the training steps' time: waiting for data
  std::vector<std::string> left_out = {};           ///< samples to train on that could not be read and were replaced
  std::vector<std::string> not_evaluated = {};      ///< samples of the evaluation that could not be read
  std::optional<std::int64_t> evaluated = std::nullopt;  ///< samples that the last evaluation has counted
  std::string state_digest = "";
  std::string resumed_from = "";  ///< the checkpoint that it has gone on from; empty for none
  std::string checkpoint = "";    ///< the newest on the disk; empty for none
  std::optional<train::ClassResults> classes = std::nullopt;  ///< of an evaluation alone
  std::vector<Field> fields = {};
  std::string file = "";  ///< that it is written to; empty for none
};

/// The report of a run so far.
RunReport report_of(const train::Task& task, const train::Options& options, const train::Forecast& forecast,
                    const train::Trainer& trainer, std::vector<Field> fields = {});

/// The report as a file, in JSON: memory in bytes, times in milliseconds, losses with all their digits.
std::string to_json(const RunReport& report);

/// A line for each of the first samples that were left out of training or evaluation, and how many there were; nothing
/// if there was none.
void print_left_out(std::ostream& out, const RunReport& report);

/// The same for people, in a few lines.
void print_summary(std::ostream& out, const RunReport& report);

}  // namespace palimpsest::reports
