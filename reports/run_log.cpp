#include <palimpsest/reports/run_log.hpp>

#include <cerrno>
#include <charconv>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include <palimpsest/core/error.hpp>
#include <palimpsest/core/number_text.hpp>
#include <palimpsest/core/whole_file.hpp>
#include <palimpsest/reports/event_file.hpp>
#include <palimpsest/reports/run_page.hpp>

namespace palimpsest::reports {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr std::array<const char*, 4> row_files = {LogNames::steps, LogNames::evaluations, LogNames::lines,
                                                  LogNames::events};

double seconds_since_1970() {
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  return std::chrono::duration<double>(now).count();
}

/// The rows at the beginning of a file that a resumed run keeps.
struct Kept {
  std::size_t bytes = 0;
  std::int64_t last_step = 0;
};

using StepOf = std::optional<std::int64_t> (*)(std::string_view line);

std::optional<std::int64_t> step_of_csv(std::string_view line) {
  std::int64_t step = 0;
  const auto [stop, error] = std::from_chars(line.data(), line.data() + line.size(), step);
  const bool whole = error == std::errc() && stop != line.data() + line.size() && *stop == ',';
  return whole ? std::optional(step) : std::nullopt;
}

std::optional<std::int64_t> step_of_json(std::string_view line) {
  const Json json = Json::parse(line, nullptr, /*allow_exceptions=*/false);
  const bool whole = json.is_object() && json.contains("step") && json["step"].is_number_integer();
  return whole ? std::optional(json["step"].get<std::int64_t>()) : std::nullopt;
}

using CheckRow = std::function<void(std::string_view line, std::int64_t step)>;

/// The lines of steps up to `done`, behind the header if there is to be one. A last line without an end is not kept.
Kept kept_lines(const LogFile& file, const std::string& header, StepOf step_of, std::int64_t done,
                const CheckRow& check = nullptr) {
  const std::string text = file.content();
  Kept kept;
  std::size_t number = 0;
  for (std::size_t end = 0; (end = text.find('\n', kept.bytes)) != std::string::npos; kept.bytes = end + 1) {
    const std::string_view line = std::string_view(text).substr(kept.bytes, end - kept.bytes);
    if (++number == 1 && !header.empty()) {
      if (line == header) continue;
      throw DataError(concat_text(file.path().string(), " begins with '", line.substr(0, 80),
                                  "', and the log of this run with '", header, "'"));
    }
    const std::optional<std::int64_t> step = step_of(line);
    if (!step) {
      throw DataError(
          concat_text(file.path().string(), ", line ", number, ": '", line.substr(0, 80), "' is no row of a log"));
    }
    if (*step > done) break;
    if (check) check(line, *step);
    kept.last_step = *step;
  }
  return kept;
}

/// Compares a row of a step with the loss that the run has had in it, if that is known.
void check_loss(const LogFile& rows, std::string_view line, std::int64_t step, const std::vector<double>& losses) {
  if (step < 1 || step > static_cast<std::int64_t>(losses.size())) return;
  const std::size_t comma = line.find(',') + 1;
  const std::string_view loss = line.substr(comma, line.find(',', comma) - comma);
  const std::string expected = number_text(losses[static_cast<std::size_t>(step) - 1]);
  if (loss == expected) return;
  throw DataError(concat_text(rows.path().string(), " is the log of another run: in step ", step, " its loss is ", loss,
                              ", and this run's was ", expected));
}

}  // namespace

void check_log(const std::string& folder, bool resumed) {
  std::error_code error;
  fs::create_directories(folder, error);
  if (error) throw Error(concat_text("cannot make the folder ", folder, " for a log: ", error.message()));
  for (const char* const name : row_files) {
    const std::uintmax_t size = fs::file_size(fs::path(folder) / name, error);
    if (resumed || error || size == 0) continue;  // a run that has ended before its first row has left nothing
    throw ValueError(concat_text(folder, " has the log of a run already (", name,
                                 "); resume that run, name another folder, or remove it"));
  }
  const WholeFile page(fs::path(folder) / LogNames::page);
}

RunLog::RunLog(const std::string& folder, LogFacts facts, const std::optional<LogResumed>& resumed, Warn warn)
    : folder_(folder), facts_(std::move(facts)), warn_(std::move(warn)) {
  if (!warn_) warn_ = [](const std::string& line) { std::fprintf(stderr, "%s\n", line.c_str()); };
  check_log(folder, resumed.has_value());
  step_rows_.emplace(path(LogNames::steps), steps_header(facts_) + "\n");
  evaluation_rows_.emplace(path(LogNames::evaluations), evaluations_header(facts_) + "\n");
  lines_.emplace(path(LogNames::lines), "");
  events_.emplace(path(LogNames::events), event_file_begin(seconds_since_1970()));
  if (resumed) resume(*resumed);
  WholeFile(path(LogNames::facts)).write(to_json(facts_));
}

/// Nothing is cut before everything has been read: a log of another run stays as it was.
void RunLog::resume(const LogResumed& resumed) {
  const std::int64_t done = resumed.steps;
  const Kept steps = kept_lines(
      *step_rows_, steps_header(facts_), step_of_csv, done,
      [&](std::string_view line, std::int64_t step) { check_loss(*step_rows_, line, step, resumed.losses); });
  const Kept evaluations = kept_lines(*evaluation_rows_, evaluations_header(facts_), step_of_csv, done);
  const Kept lines = kept_lines(*lines_, "", step_of_json, done);
  const EventPrefix events = events_up_to(events_->content(), done);
  step_rows_->cut(steps.bytes);
  evaluation_rows_->cut(evaluations.bytes);
  lines_->cut(lines.bytes);
  events_->cut(events.bytes);
  steps_ = done;
  if (evaluations.bytes > evaluations_header(facts_).size() + 1) last_evaluated_ = evaluations.last_step;
  for (const auto& [file, last] : {std::pair(&*step_rows_, steps.last_step), std::pair(&*lines_, lines.last_step),
                                   std::pair(&*events_, events.last_step)}) {
    if (last >= done) continue;
    warn_(concat_text(file->path().string(), " lacks the rows of steps ", last + 1, " to ", done,
                      ", which the resumed run has done before"));
  }
}

RunLog::~RunLog() {
  try {
    if (!finished_) finish();
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
  }
}

void RunLog::step(const LogStep& step) {
  const Clock::time_point now = Clock::now();
  std::optional<double> rate;
  if (since_) rate = static_cast<double>(step.samples) / std::chrono::duration<double>(now - *since_).count();
  since_ = now;
  ++steps_;
  add(*step_rows_, concat_text(steps_, ',', number_text(step.loss), ',', number_text(step.learning_rate), ',',
                               rate ? number_text(*rate) : "", ',', step.peak, '\n'));
  const Json line = {{"step", steps_},
                     {"loss", step.loss},
                     {"learning_rate", step.learning_rate},
                     {rate_key(facts_), rate ? Json(*rate) : Json(nullptr)},
                     {"peak_bytes", step.peak}};
  add(*lines_, line.dump() + "\n");
  const std::string rate_tag = "train/" + rate_key(facts_);
  std::vector<Scalar> scalars = {{"train/loss", step.loss},
                                 {"train/learning_rate", step.learning_rate},
                                 {"train/peak_bytes", static_cast<double>(step.peak)}};
  if (rate) scalars.push_back({rate_tag, *rate});
  add(*events_, event_record(seconds_since_1970(), steps_, scalars));
  tell();
}

void RunLog::evaluated(double metric) {
  since_ = Clock::now();
  if (steps_ == last_evaluated_) return;  // a run that is resumed after an evaluation may make it again
  last_evaluated_ = steps_;
  add(*evaluation_rows_, concat_text(steps_, ',', number_text(metric), '\n'));
  add(*lines_, Json{{"step", steps_}, {metric_key(facts_), metric}}.dump() + "\n");
  const std::string tag = "test/" + facts_.metric;
  add(*events_, event_record(seconds_since_1970(), steps_, std::array{Scalar{tag, metric}}));
  tell();
}

void RunLog::follow(train::Trainer& trainer) {
  trainer.listen(
      [this](const train::StepResult& done) {
        step({.loss = done.loss, .learning_rate = done.learning_rate, .samples = done.samples, .peak = done.peak});
      },
      [this](const train::Evaluation& done) { evaluated(done.metric); });
}

void RunLog::add(LogFile& file, const std::string& row) {
  if (file.append(row) || warned_) return;
  warned_ = true;
  warn_(concat_text("cannot write the log ", file.path().string(), ": ", std::strerror(errno),
                    "; the run goes on, and every further row tries again"));
}

/// Once all files have what has waited for them, the next failure is worth a warning again.
void RunLog::tell() {
  if (!warned_) return;
  bool waiting = false;
  for (LogFile* const file : files()) waiting |= file->waiting() > 0 && !file->retry();
  if (waiting) return;
  warned_ = false;
  warn_(concat_text("the log in ", folder_, " is complete again"));
}

void RunLog::write_page() {
  try {
    WholeFile(path(LogNames::page)).write(run_page({read_log(folder_)}));
    page_failed_ = false;
  } catch (const std::exception& error) {
    if (!page_failed_) warn_(concat_text(error.what(), "; the run goes on"));
    page_failed_ = true;
  }
  if (since_) since_ = Clock::now();
}

bool RunLog::finish() {
  finished_ = true;
  tell();
  bool whole = true;
  for (const LogFile* const file : files()) {
    if (file->waiting() == 0) continue;
    whole = false;
    warn_(concat_text(file->path().string(), " lacks its last ", file->waiting(), " rows"));
  }
  write_page();
  return whole && !page_failed_;
}

std::string RunLog::path(const char* name) const { return fs::path(folder_) / name; }

}  // namespace palimpsest::reports
