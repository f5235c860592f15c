#include "examples/flags/command_line.hpp"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <filesystem>
#include <iostream>
#include <memory>

#include <palimpsest/autograd/verify.hpp>
#include <palimpsest/core/error.hpp>
#include <palimpsest/datasets/catalogue.hpp>
#include <palimpsest/memory/planner/planner.hpp>
#include <palimpsest/memory/request.hpp>
#include <palimpsest/train/checkpoints.hpp>
#include <palimpsest/train/memory_choice.hpp>

namespace palimpsest::flags {
namespace {

constexpr std::int64_t many = 1'000'000'000;

/// CLI11's layout with "--flag TYPE", the default at the end of the description, and no marks for negated flags.
class HelpFormatter : public CLI::Formatter {
 public:
  HelpFormatter() { column_width(32); }

  std::string make_usage(const CLI::App* app, std::string name) const override {
    return CLI::Formatter::make_usage(app, std::move(name)) + "\n";
  }
  std::string make_group(std::string group, bool positional, std::vector<const CLI::Option*> options) const override {
    return CLI::Formatter::make_group(std::move(group), positional, std::move(options)).substr(1);
  }

  std::string make_option_name(const CLI::Option* option, bool) const override {
    return CLI::detail::find_and_replace(option->get_name(false, true), "{false}", "");
  }
  std::string make_option_opts(const CLI::Option* option) const override {
    return option->get_type_size() == 0 ? "" : " " + option->get_type_name();
  }
  std::string make_option_desc(const CLI::Option* option) const override {
    const std::string fallback = option->get_default_str();
    return option->get_description() + (fallback.empty() ? "" : " (default: " + fallback + ")");
  }
};

template <class Names>
std::vector<std::string> strings(const Names& names) {
  return {names.begin(), names.end()};
}

std::string listed(const std::vector<std::string>& names) { return CLI::detail::join(names, ", "); }

// CLI11's own conversion lets a negative number wrap round.
template <class Integer>
CLI::Validator whole_numbers_of(Integer low, Integer high, const std::string& word = "") {
  const auto check = [low, high, word](std::string& given) {
    if (!word.empty() && given == word) return std::string();
    Integer number = 0;
    const char* const end = given.data() + given.size();
    const auto [stop, error] = std::from_chars(given.data(), end, number);
    const bool fits = error == std::errc() && stop == end && number >= low && number <= high;
    return fits ? std::string()
                : concat_text("'", given, "' is not a whole number from ", low, " to ", high,
                              word.empty() ? "" : ", nor '" + word + "'");
  };
  return CLI::Validator(check, "");
}

/// Texts that this function of the library reads without a ValueError.
template <class Read>
CLI::Validator read_by(const Read& read) {
  const auto check = [read](std::string& given) -> std::string {
    try {
      read(given);
      return "";
    } catch (const ValueError& error) {
      return error.what();
    }
  };
  return CLI::Validator(check, "");
}

CLI::Validator byte_count() {
  return read_by([](const std::string& given) { memory::Budget budget(given); });
}

CLI::Validator interval() {
  return read_by([](const std::string& given) { train::parse_interval(given); });
}

CLI::Validator memory_policy() {
  return read_by([](const std::string& given) { memory::parse(given); });
}

CLI::Validator folder_or_one_of(std::vector<std::string> names) {
  const auto check = [names = std::move(names)](std::string& given) {
    const bool fits =
        std::find(names.begin(), names.end(), given) != names.end() || std::filesystem::is_directory(given);
    return fits ? std::string() : "'" + given + "' is neither a folder nor one of " + listed(names);
  };
  return CLI::Validator(check, "");
}

CLI::Validator shares() {
  const auto check = [](std::string& given) {
    double number = 0;
    const bool fits = CLI::detail::lexical_cast(given, number) && number >= 0 && number <= 1;
    return fits ? std::string() : "'" + given + "' is not a number from 0 to 1";
  };
  return CLI::Validator(check, "");
}

CLI::Validator file_names() {
  const auto check = [](std::string& given) {
    return given.starts_with("-") ? "the name is missing: " + given + " is a flag" : std::string();
  };
  return CLI::Validator(check, "");
}

std::string one_line(std::string text) {
  std::replace(text.begin(), text.end(), '\n', ' ');
  while (!text.empty() && text.back() == ' ') text.pop_back();
  return text;
}

}  // namespace

CLI::Validator one_of(std::vector<std::string> names) {
  const auto check = [names = std::move(names)](std::string& given) {
    const bool known = std::find(names.begin(), names.end(), given) != names.end();
    return known ? std::string() : "'" + given + "' is unknown, expected one of " + listed(names);
  };
  return CLI::Validator(check, "");
}

CLI::Validator whole_numbers(std::int64_t low, std::int64_t high, const std::string& word) {
  return whole_numbers_of(low, high, word);
}

CLI::Validator magnitudes() {
  const auto check = [](std::string& given) {
    double number = 0;
    const bool fits = CLI::detail::lexical_cast(given, number) && std::isfinite(number) && number >= 0;
    return fits ? std::string() : "'" + given + "' is not a number of at least 0";
  };
  return CLI::Validator(check, "");
}

bool parse(CLI::App& app, int argc, const char* const* argv) {
  try {
    app.parse(argc, argv);
  } catch (const CLI::CallForHelp&) {
    std::cout << app.help();
    return false;
  } catch (const CLI::ParseError& error) {
    throw UsageError(one_line(error.what()) + " (--help lists the flags)");
  }
  return true;
}

CommandLine::CommandLine(std::string name, std::string description)
    : name_(std::move(name)), app_(std::move(description), name_) {
  app_.formatter(std::make_shared<HelpFormatter>());
  app_.option_defaults()->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
  app_.set_help_flag();  // set again as the last one, so that the model's flags come first
  app_.footer(
      "Progress goes to standard error, the summary to standard output. Ctrl-C ends the run after the current step,\n"
      "with summary and report; a second one ends it at once.\n"
      "Exit status: 0 done, 2 wrong usage, 130 interrupted (143 by SIGTERM), 1 any other failure.");
}

CLI::Option* CommandLine::add_switch(const std::string& flags, bool& variable, const std::string& description) {
  const std::string state = variable ? "on" : "off";
  return app_.add_flag(flags, variable, description + " (default: " + state + ")")->group("Model");
}

bool CommandLine::parse(int argc, const char* const* argv) {
  add_shared_flags();
  if (!flags::parse(app_, argc, argv)) return false;
  refuse_vain_flags();
  return true;
}

/// A flag that would be ignored in silence is more likely a mistake than a wish.
void CommandLine::refuse_vain_flags() const {
  if (!options.plan && !options.budget.empty()) {
    throw UsageError(concat_text("--budget is for --plan; to train within it: --memory budget=", options.budget));
  }
  if (options.checkpoints.folder.empty() && options.resume.empty()) {
    for (const char* const flag : {"--checkpoint-every", "--keep"}) {
      if (app_.count(flag) != 0) throw UsageError(concat_text(flag, " is for a run with --checkpoint or --resume"));
    }
  }
  if (options.freeze_norm && options.freeze.empty()) {
    throw UsageError("--freeze-norm is for what --freeze names, and that is nothing");
  }
  if (options.weights.empty() && !options.weights_except.empty()) {
    throw UsageError("--except leaves tensors out of --weights, which is missing");
  }
  if (!options.weights.empty() && !options.resume.empty() && options.checkpoints.folder != options.resume) {
    throw UsageError("--weights begins a run, and --resume goes on with one");
  }
  for (const char* const flag : {"--checkpoint", "--resume"}) {
    if (app_.count(flag) != 0 && app_.get_option(flag)->as<std::string>().empty()) {
      throw UsageError(concat_text(flag, " names no folder"));
    }
  }
  if (!options.predictions.empty() && !options.evaluate_alone) {
    throw UsageError("--predictions writes about an evaluation: --evaluate is missing");
  }
  if (options.crops != 1 && !options.evaluate_alone) throw UsageError("--crops is for --evaluate");
  if (options.evaluate_alone) refuse_what_trains();
  if (!options.plan) return;
  refuse_files(" writes about a run, and --plan runs nothing");
  if (!options.files.report.empty()) throw UsageError("--report writes about a run, and --plan runs nothing");
}

void CommandLine::refuse_what_trains() const {
  if (options.plan) throw UsageError("--plan and --evaluate exclude each other");
  if (!options.evaluate) throw UsageError("--evaluate and --no-eval exclude each other");
  refuse_files(" writes about training, and --evaluate trains nothing");
}

/// Refuses the files and folders that only a training run fills.
void CommandLine::refuse_files(const char* why) const {
  const std::pair<const char*, const std::string&> files[] = {{"--checkpoint", options.checkpoints.folder},
                                                              {"--resume", options.resume},
                                                              {"--memory-report", options.files.page},
                                                              {"--memory-snapshot", options.files.snapshot},
                                                              {"--trace", options.files.trace},
                                                              {"--log-dir", options.files.log_dir},
                                                              {"--save-weights", options.save_weights}};
  for (const auto& [flag, file] : files) {
    if (!file.empty()) throw UsageError(concat_text(flag, why));
  }
}

void CommandLine::add_shared_flags() {
  for (CLI::Option* const option : app_.get_options()) {
    if (option->get_group() == "Model" && option->get_type_size() != 0 && option->get_default_str().empty())
      option->capture_default_str();
  }
  add_memory_flags();
  add_data_flags();
  add_training_flags();
  add_checkpoint_flags();
  add_output_flags();
}

void CommandLine::add_memory_flags() {
  const auto add = [this](const char* flag, auto& variable, const char* type, const std::string& description) {
    return app_.add_option(flag, variable, description)->type_name(type)->group("Memory and device");
  };
  add("--memory", options.memory, "POLICY", "memory policy: " + memory::request_help())
      ->check(memory_policy())
      ->capture_default_str();
  app_.add_flag("--plan", options.plan, "print what a step takes under every policy, without running it, and exit")
      ->group("Memory and device");
  add("--budget", options.budget, "BYTES",
      "with --plan: also the largest batch and depth within so many bytes, and a plan for them")
      ->check(byte_count());
  add("--rates", options.rates, "FILE", "the device's rates, for predicted times (default: built in)");
  add("--offload-dir", options.offload_dir, "DIR",
      "where --memory offload puts its file on the cpu; the system's temporary folder by default");
  add("--device", options.device, "NAME", "where to compute: auto (cuda if there is a device, else cpu), cpu, cuda")
      ->check(one_of({"auto", "cpu", "cuda"}))
      ->capture_default_str();
  add("--precision", options.precision, "NAME", "matrix products on cuda: fp32, or tf32 on its tensor cores")
      ->check(one_of({"fp32", "tf32"}))
      ->capture_default_str();
  add("--verify", options.verify, "NAME",
      "compare what is restored with what forward made: off, sampled (a part, another one in every step), all")
      ->check(one_of(strings(verify_names())))
      ->capture_default_str();
  add("--threads", options.threads, "N", "threads to compute with on the cpu; all cores by default")
      ->check(whole_numbers(1, 256))
      ->capture_default_str();
}

void CommandLine::add_data_flags() {
  const std::vector<std::string> sets = strings(datasets::names());
  const auto add = [this](const std::string& flag, auto& variable, const char* type, const std::string& description) {
    return app_.add_option(flag, variable, description)->type_name(type)->group("Data");
  };
  const bool folders = options.takes_folders;
  add("--data", options.data, folders ? "DIR" : "NAME",
      (folders ? "folder of pictures, with train/CLASS/*.jpg and val/CLASS/*.jpg or CLASS/*.jpg; or data set: "
               : "data set: ") +
          listed(sets))
      ->check(folders ? folder_or_one_of(sets) : one_of(sets))
      ->capture_default_str();
  if (folders) {
    app_.add_flag("--skip-broken", options.skip_broken,
                  "go on without pictures that cannot be read, with others of their class; the report lists them")
        ->group("Data");
    add("--crops", options.crops, "N",
        "with --evaluate, 1: the middle of a picture; 10: also its corners, and all mirrored, at ten times the memory")
        ->check(CLI::IsMember({1, 10}))
        ->capture_default_str();
  }
  add("--data-dir", options.data_dir, "DIR",
      "folder of its files; fashion-mnist comes with the Debian package dataset-fashion-mnist");
  add_switch("--augment,!--no-augment", options.augment, "mirror and crop training images at random")->group("Data");
  add("--train-limit", options.train_limit, "N", "use only the first N training images")->check(whole_numbers(1, many));
  add("--test-limit", options.test_limit, "N", "use only the first N test images")->check(whole_numbers(1, many));
}

void CommandLine::add_training_flags() {
  const auto add = [this](const std::string& flag, auto& variable, const char* type, const std::string& description) {
    return app_.add_option(flag, variable, description)->type_name(type)->group("Training");
  };
  const auto add_patterns = [&](const std::string& flag, auto& variable, const std::string& description) {
    add(flag, variable, "PATTERN", description + "; may be given several times")
        ->allow_extra_args(false)
        ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  };
  add("--batch-size", options.batch_size, "N", "images of a step")
      ->check(whole_numbers(1, 65536))
      ->capture_default_str();
  add("--accumulate", options.accumulate, "N",
      "divide the images of a step into N batches, of which one at a time takes memory, and add up their gradients")
      ->check(whole_numbers(1, 65536))
      ->capture_default_str();
  add("--epochs", options.epochs, "N", "passes over the training images")
      ->check(whole_numbers(1, 1'000'000))
      ->capture_default_str();
  add("--max-steps", options.max_steps, "N", "stop after N steps; schedules span the steps that are run")
      ->check(whole_numbers(1, many));
  add("--lr", options.learning_rate, "RATE", "learning rate")->check(magnitudes())->capture_default_str();
  add("--momentum", options.momentum, "M", "momentum")->check(magnitudes())->capture_default_str();
  add("--weight-decay", options.weight_decay, "W", "weight decay")->check(magnitudes())->capture_default_str();
  add("--schedule", options.schedule, "NAME", "step (a tenth " + step_schedule + "), cosine, constant")
      ->check(one_of({"step", "cosine", "constant"}))
      ->capture_default_str();
  add("--warmup", options.warmup, "STEPS", "let the learning rate rise over the first steps")
      ->check(whole_numbers(0, many))
      ->capture_default_str();
  add("--label-smoothing", options.label_smoothing, "E",
      "spread this part of the expected probability evenly over all classes")
      ->check(shares())
      ->capture_default_str();
  add_patterns("--freeze", options.freeze,
               "do not train parameters of such names, as 'dense1.*'; they keep nothing for backward");
  app_.add_flag("--freeze-norm", options.freeze_norm,
                "normalisations without other parameters use their running statistics, and leave them as they are")
      ->group("Training");
  add("--seed", options.seed, "N", "fixes weights, order, augmentation and dropout")
      ->check(whole_numbers_of<std::uint64_t>(0, UINT64_MAX))
      ->capture_default_str();
  add("--weights", options.weights, "FILE", "begin with the weights of this file (safetensors), all of which must fit")
      ->check(file_names());
  add_patterns("--except", options.weights_except, "but for tensors of such names, as 'classifier.*'");
}

void CommandLine::add_checkpoint_flags() {
  const auto add = [this](const std::string& flag, auto& variable, const char* type, const std::string& description) {
    return app_.add_option(flag, variable, description)->type_name(type)->group("Checkpoints");
  };
  add("--checkpoint", options.checkpoints.folder, "DIR", "keep the run in this folder, to go on with it by --resume")
      ->check(file_names());
  add("--checkpoint-every", options.checkpoints.every, "INTERVAL", "as 500steps, 90s, 10min, 2h or 1epoch")
      ->check(interval())
      ->capture_default_str();
  add("--keep", options.checkpoints.keep, "N", "keep the last N checkpoints, and the one with the best accuracy")
      ->check(whole_numbers(1, many))
      ->capture_default_str();
  add("--resume", options.resume, "DIR",
      "go on with the run in this folder, and keep it there unless --checkpoint names another; --checkpoint DIR "
      "--resume DIR begins one if there is none")
      ->check(file_names());
}

void CommandLine::add_output_flags() {
  add_switch("--eval,!--no-eval", options.evaluate, "measure the test accuracy, at the end and between epochs")
      ->group("Output");
  app_.add_option("--eval-every", options.evaluate_every, "epochs between two measurements")
      ->type_name("N")
      ->check(whole_numbers(1, 1'000'000))
      ->capture_default_str()
      ->group("Output");
  app_.add_flag(
          "--evaluate", options.evaluate_alone,
          "train nothing: measure the test accuracy of the weights that --weights names, and what is taken for what")
      ->group("Output");
  const auto add_file = [this](const std::string& flag, std::string& variable, const std::string& description) {
    app_.add_option(flag, variable, description)->check(file_names())->type_name("FILE")->group("Output");
  };
  add_file("--report", options.files.report, "write a report in JSON, after every epoch and at the end");
  add_file("--save-weights", options.save_weights, "write the weights at the end (safetensors)");
  add_file("--predictions", options.predictions, "with --evaluate: write what each test image is taken for (CSV)");
  add_file("--memory-report", options.files.page, "write a page (HTML) of where a step's memory goes");
  add_file("--memory-snapshot", options.files.snapshot,
           "write a step's memory (JSON) as PyTorch's memory_viz reads it");
  add_file("--trace", options.files.trace, "write a step's ops (JSON) as Perfetto and chrome://tracing read them");
  app_.add_option("--log-dir", options.files.log_dir,
                  "write a log of every step into a folder: CSV, JSON lines, events for TensorBoard, a page (run.html)")
      ->check(file_names())
      ->type_name("DIR")
      ->group("Output");
  app_.add_flag("--quiet", options.quiet, "no progress, only the summary")->group("Output");
  app_.set_help_flag("-h,--help", "print this and exit")->group("Output");
}

}  // namespace palimpsest::flags
