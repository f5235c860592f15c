#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <exception>
#include <iostream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <palimpsest/core/error.hpp>
#include "examples/flags/options.hpp"

namespace palimpsest::flags {

/// The command line asks for something that cannot be: exit status 2.
class UsageError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// Runs `run` and returns its result; an error that the flags are to blame for (ValueError, ShapeError) leaves as a
/// UsageError.
template <class Run>
auto blame_flags(const Run& run) {
  try {
    return run();
  } catch (const ValueError& error) {
    throw UsageError(error.what());
  } catch (const ShapeError& error) {
    throw UsageError(error.what());
  }
}

/// Reads the arguments. False if they asked for help, which is then printed. Throws UsageError.
bool parse(CLI::App& app, int argc, const char* const* argv);

/// Runs a program's body and returns its exit status: what the body gives, 2 for a UsageError, 1 for another error,
/// either told in one line.
template <class Body>
int run_program(std::string_view name, const Body& body) {
  try {
    return body();
  } catch (const UsageError& error) {
    std::cerr << name << ": " << error.what() << std::endl;
    return 2;
  } catch (const std::exception& error) {
    std::cerr << name << ": " << error.what() << std::endl;
    return 1;
  }
}

/// The flags of an example: those that all share and, by add(), those of its model.
class CommandLine {
 public:
  CommandLine(std::string name, std::string description);

  Options options;
  /// When the learning rate falls, for --help.
  std::string step_schedule = "after half of the run, again after 3/4";

  /// A flag of the model that takes a value; `variable` holds its default and gets what is given.
  template <class T>
  CLI::Option* add(const std::string& flag, T& variable, const std::string& type, const std::string& description) {
    return app_.add_option(flag, variable, description)->type_name(type)->group("Model");
  }
  /// An on-off flag, as "--name,!--no-name".
  CLI::Option* add_switch(const std::string& flags, bool& variable, const std::string& description);

  /// Reads the arguments. False if they asked for help, which is then printed. Throws UsageError.
  bool parse(int argc, const char* const* argv);
  bool given(const std::string& flag) const { return app_.count(flag) != 0; }
  const std::string& name() const { return name_; }

 private:
  std::string name_;
  CLI::App app_;

  void refuse_vain_flags() const;
  void refuse_what_trains() const;
  void refuse_files(const char* why) const;
  void add_shared_flags();
  void add_memory_flags();
  void add_data_flags();
  void add_training_flags();
  void add_checkpoint_flags();
  void add_output_flags();
};

/// Accepts these words.
CLI::Validator one_of(std::vector<std::string> names);
/// Accepts whole numbers from `low` to `high` and, if there is one, a word.
CLI::Validator whole_numbers(std::int64_t low, std::int64_t high, const std::string& word = "");
/// Accepts finite numbers of at least 0.
CLI::Validator magnitudes();

}  // namespace palimpsest::flags
