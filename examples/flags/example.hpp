#pragma once

#include <functional>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <palimpsest/nn/model.hpp>
#include <palimpsest/reports/evaluate.hpp>
#include <palimpsest/reports/plan_table.hpp>
#include <palimpsest/reports/run.hpp>
#include "examples/flags/command_line.hpp"
#include "examples/flags/image_data.hpp"
#include "examples/flags/options.hpp"

namespace palimpsest::flags {

/// Makes the model that the flags describe for images of this data set, of a depth that the flags may not have given.
using MakeModel =
    std::function<std::unique_ptr<nn::Classifier>(const DataFacts& data, std::int64_t depth, nn::Init init)>;

/// The task of an image classifier that the shared flags describe.
train::Task image_task(std::string model, const MakeModel& make_model, std::int64_t depth, const Options& options,
                       const TrainingDefaults& defaults, const ImageData& data);

/// The options of a run that the shared flags describe.
train::Options run_options(const Options& options, Device device);

/// A program that trains a model on images. It says how its model is made, what its published training is like and
/// which flags of its own it has.
class Example {
 public:
  Example(std::string name, std::string description) : command_line_(std::move(name), std::move(description)) {}

  /// When the step schedule lets the learning rate fall, for --help.
  void set_step_schedule(std::string when) { command_line_.step_schedule = std::move(when); }

  /// Defaults of the shared flags, and what they were set to once run() has read them.
  Options& options() { return command_line_.options; }

  /// Called when the flags have been read, before anything else is: sets what follows from them. A ValueError of it
  /// blames the flags.
  std::function<void()> when_parsed = [] {};
  /// True if a flag was on the command line; its variable may still have its default.
  bool given(const std::string& flag) const { return command_line_.given(flag); }

  /// Called when the flags have been read.
  std::function<std::string()> model_name;
  MakeModel make_model;
  /// Facts about the model for files of weights (train::Task::metadata).
  std::function<std::map<std::string, std::string>()> metadata = [] { return std::map<std::string, std::string>(); };
  TrainingDefaults defaults;

  /// The depths that --plan may try, without their tasks; none for a model without such a flag. Called when the flags
  /// have been read.
  std::function<std::optional<reports::Depths>()> depths = [] { return std::nullopt; };

  /// A flag of the model that takes a value; the variable holds its default. It will be in the report.
  template <class T>
  CLI::Option* add(const std::string& flag, T& variable, const std::string& type, const std::string& description) {
    report_as(flag, [&variable] { return value_of(variable); });
    return command_line_.add(flag, variable, type, description);
  }
  /// A flag of the model that is on or off: --flag, --no-flag.
  CLI::Option* add_switch(const std::string& flag, bool& variable, const std::string& description) {
    report_as(flag, [&variable] { return value_of(variable); });
    return command_line_.add_switch(flag + ",!--no-" + flag.substr(2), variable, description);
  }

  /// The program: reads the flags, trains, prints the summary and writes the report. Returns the exit status: 0 done,
  /// 2 wrong usage, 130 interrupted (143 by SIGTERM), 1 any other failure, with one line on standard error. A picture
  /// of a step that cannot be written is such a failure, too, but one that is only warned of until the training has
  /// ended.
  int run(int argc, const char* const* argv);

 private:
  using Value = decltype(reports::Field::value);

  CommandLine command_line_;
  std::vector<std::pair<std::string, std::function<Value()>>> reported_;

  void report_as(const std::string& flag, std::function<Value()> value) {
    reported_.emplace_back(flag.substr(2), std::move(value));
  }
  template <class T>
  static Value value_of(const T& value) {
    return value;
  }
  /// "6,12,24"; none if it is empty.
  static Value value_of(const std::vector<std::int64_t>& values);
  static Value value_of(int value) { return std::int64_t{value}; }
  static std::string text_of(const Value& value);
  /// None if it is empty; a whole number if it is one.
  static Value value_of(const std::string& text);
  template <class T>
  static Value value_of(const std::optional<T>& value) {
    return value ? value_of(*value) : Value();
  }

  void open_pictures();
  int plan(Device device) const;
  int train(Device device) const;
  int evaluate(Device device) const;
  train::Task task(const ImageData& data) const;
  train::Options run_options_of(Device device) const;
  std::vector<reports::Field> fields() const;
  ops::Precision precision(Device device) const;
  void explain(Device device) const;
};

/// The device that --device names; "auto" is CUDA if there is a device, else the CPU. Throws DeviceError, with the
/// reason, for one that is not there.
Device choose_device(const std::string& name);

}  // namespace palimpsest::flags
