#pragma once

#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "examples/harness/command_line.hpp"
#include "examples/harness/dry_run.hpp"
#include "examples/harness/memory_report.hpp"
#include "examples/harness/options.hpp"
#include "examples/harness/plan_table.hpp"
#include "examples/harness/report.hpp"

namespace palimpsest::harness {

/// A program that trains a model on images. It says how its model is made, what its published training is like and
/// which flags of its own it has; the harness does the rest.
class Example {
 public:
  Example(std::string name, std::string description) : command_line_(std::move(name), std::move(description)) {}

  /// Defaults of the shared flags, and what they were set to once run() has read them.
  Options& options() { return command_line_.options; }

  /// Called when the flags have been read.
  std::function<std::string()> model_name;
  MakeModel make_model;
  TrainingDefaults defaults;

  /// The depths that --plan may try; none where the model has no such flag. Called when the flags have been read.
  std::function<std::optional<DepthFlag>()> depth_flag = [] { return std::nullopt; };

  /// A flag of the model that takes a value; the variable holds its default. It will be in the report.
  template <class T>
  CLI::Option* add(const std::string& flag, T& variable, const std::string& type, const std::string& description) {
    report_as(flag, [&variable] { return to_report(variable); });
    return command_line_.add(flag, variable, type, description);
  }
  /// A flag of the model that is on or off: --flag, --no-flag.
  CLI::Option* add_switch(const std::string& flag, bool& variable, const std::string& description) {
    report_as(flag, [&variable] { return Json(variable); });
    return command_line_.add_switch(flag + ",!--no-" + flag.substr(2), variable, description);
  }

  /// The program: reads the flags, trains, prints the summary and writes the report. Returns the exit status: 0 done,
  /// 2 wrong usage, 130 interrupted, 1 any other failure, with one line on standard error. A picture of a step that
  /// cannot be written is such a failure, too, but one that is only warned of until the training has ended.
  int run(int argc, const char* const* argv);

 private:
  CommandLine command_line_;
  std::vector<std::pair<std::string, std::function<Json()>>> reported_;

  void report_as(const std::string& flag, std::function<Json()> value) {
    reported_.emplace_back(flag.substr(2), std::move(value));
  }
  template <class T>
  static Json to_report(const T& value) {
    return value;
  }
  template <class T>
  static Json to_report(const std::optional<T>& value) {
    return value ? Json(*value) : Json(nullptr);
  }

  struct Opened;

  int train();
  int train(Device device, const Opened& opened, const MemoryChoice& memory, const Forecast& forecast);
  Opened open(Device device) const;
  MemoryReport foretell(Device device, const MemoryChoice& memory, const Forecast& forecast) const;
  void plan(Device device) const;
  Json model_flags() const;
  void announce(const MemoryChoice& memory, const Forecast& forecast) const;
  void apply_precision(Device device) const;
  void prepare_offload(Device device) const;
  void explain(Device device) const;
};

/// The device that --device names; "auto" is CUDA if there is a device, else the CPU. Throws DeviceError, with the
/// reason, for one that is not there.
Device choose_device(const std::string& name);

}  // namespace palimpsest::harness
