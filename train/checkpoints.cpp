#include <palimpsest/train/checkpoints.hpp>

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <set>
#include <system_error>
#include <utility>

#include <palimpsest/core/error.hpp>

namespace palimpsest::train {
namespace fs = std::filesystem;
namespace {

constexpr std::string_view prefix = "checkpoint-";
constexpr std::string_view suffix = ".safetensors";

std::string path_of(const std::string& folder, std::int64_t steps) {
  std::string number = std::to_string(steps);
  number.insert(0, 8 - std::min<std::size_t>(8, number.size()), '0');
  return (fs::path(folder) / concat_text(prefix, number, suffix)).string();
}

/// The steps in the name of a checkpoint; nullopt for any other file.
std::optional<std::int64_t> steps_of(const std::string& name) {
  if (!name.starts_with(prefix) || !name.ends_with(suffix)) return std::nullopt;
  const char* const first = name.data() + prefix.size();
  const char* const last = name.data() + name.size() - suffix.size();
  std::int64_t steps = 0;
  const auto [end, error] = std::from_chars(first, std::max(first, last), steps);
  return error == std::errc() && end == last && steps >= 0 ? std::optional(steps) : std::nullopt;
}

/// Steps of the checkpoints in a folder, ascending.
std::set<std::int64_t> steps_in(const std::string& folder) {
  std::set<std::int64_t> all;
  std::error_code error;
  for (fs::directory_iterator entry(folder, error), end; !error && entry != end; entry.increment(error)) {
    if (const auto steps = steps_of(entry->path().filename().string())) all.insert(*steps);
  }
  return all;
}

/// Steps after which the evaluation was the best, the first of equals.
std::optional<std::int64_t> best_of(const RunRecord* record, bool smaller) {
  if (record == nullptr || record->evaluations.empty()) return std::nullopt;
  const auto worse = [smaller](const Evaluation& a, const Evaluation& b) {
    if (std::isnan(a.metric) || std::isnan(b.metric)) return std::isnan(a.metric) && !std::isnan(b.metric);
    return smaller ? a.metric > b.metric : a.metric < b.metric;
  };
  return std::max_element(record->evaluations.begin(), record->evaluations.end(), worse)->step;
}

/// Removes the checkpoints that are neither among the last `keep` nor the best. Nothing depends on their going.
void remove_old(const std::string& folder, std::int64_t keep, std::optional<std::int64_t> best) {
  std::set<std::int64_t> all = steps_in(folder);
  for (std::int64_t i = 0; i < keep && !all.empty(); ++i) all.erase(std::prev(all.end()));
  if (best) all.erase(*best);
  std::error_code ignored;
  for (const std::int64_t steps : all) fs::remove(path_of(folder, steps), ignored);
}

/// Removes what a process that was killed while it wrote has left.
void remove_torn(const std::string& folder) {
  constexpr std::string_view temporary = temporary_suffix;
  std::vector<fs::path> torn;
  std::error_code error;
  for (fs::directory_iterator entry(folder, error), end; !error && entry != end; entry.increment(error)) {
    std::string name = entry->path().filename().string();
    if (!name.ends_with(temporary)) continue;
    name.resize(name.size() - temporary.size());
    if (steps_of(name)) torn.push_back(entry->path());
  }
  for (const fs::path& path : torn) fs::remove(path, error);
}

CheckpointOptions checked(CheckpointOptions options) {
  if (options.keep < 1) throw ValueError(concat_text("checkpoints to keep: ", options.keep, ", expected at least 1"));
  return options;
}

}  // namespace

CheckpointInterval parse_interval(const std::string& text) {
  struct Name {
    std::string_view name;
    CheckpointInterval::Unit unit;
    std::int64_t factor;
  };
  using Unit = CheckpointInterval::Unit;
  constexpr Name names[] = {{"steps", Unit::Steps, 1},  {"step", Unit::Steps, 1},   {"s", Unit::Seconds, 1},
                            {"min", Unit::Seconds, 60}, {"h", Unit::Seconds, 3600}, {"epochs", Unit::Epochs, 1},
                            {"epoch", Unit::Epochs, 1}};
  std::int64_t count = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), count);
  const std::string_view unit(end, static_cast<std::size_t>(text.data() + text.size() - end));
  constexpr std::int64_t most = 1'000'000'000;
  for (const Name& name : names) {
    const bool fits = error == std::errc() && count > 0 && count <= most / name.factor;
    if (fits && unit == name.name) return {count * name.factor, name.unit};
  }
  throw ValueError(concat_text("'", text,
                               "' is no interval between checkpoints, expected one like 500steps, 90s, "
                               "10min, 2h or 1epoch"));
}

std::vector<std::string> checkpoints_in(const std::string& folder) {
  std::vector<std::string> files;
  for (const std::int64_t steps : steps_in(folder)) files.insert(files.begin(), path_of(folder, steps));
  return files;
}

CheckpointOptions kept_as(const Options& options) {
  CheckpointOptions checkpoints = options.checkpoints;
  if (!checkpoints.folder.empty() || options.resume.empty()) return checkpoints;
  if (checkpoints_in(options.resume).empty()) throw DataError("there is no checkpoint in " + options.resume);
  checkpoints.folder = options.resume;
  return checkpoints;
}

Resumed resume(const std::string& folder, const RunState& state) {
  Resumed resumed;
  for (const std::string& file : checkpoints_in(folder)) {
    try {
      verify_checkpoint(file, steps_of(fs::path(file).filename().string()));
    } catch (const DamagedCheckpoint& error) {
      resumed.damaged.push_back({file, error.what()});
      continue;
    }
    resumed.file = file;
    resumed.steps = read_checkpoint(file, state);
    return resumed;
  }
  if (resumed.damaged.empty()) return resumed;
  std::vector<std::string> reasons;
  for (const Resumed::Damaged& damaged : resumed.damaged) reasons.push_back(damaged.why);
  throw DataError(concat_text("no checkpoint in ", folder, " is whole: ", join(reasons, "; ")));
}

/// A lock that goes with the process, however that ends.
class Checkpoints::Lock {
 public:
  explicit Lock(const std::string& folder) : path_((fs::path(folder) / "lock").string()) {
    file_ = open(path_.c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0666);
    if (file_ < 0) throw Error(concat_text("cannot write into ", folder, ": ", std::strerror(errno)));
    // File systems without locks leave it to the user that no two runs share a folder.
    if (flock(file_, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
      close(file_);
      throw StateError(concat_text(folder, " is in use by another run, that of process ", owner()));
    }
    note_owner();
  }
  ~Lock() { close(file_); }
  Lock(const Lock&) = delete;
  Lock& operator=(const Lock&) = delete;

 private:
  std::string path_;
  int file_;

  std::string owner() const {
    std::ifstream file(path_);
    std::string process;
    file >> process;
    return process;
  }
  /// For the message of the one who comes too late.
  void note_owner() const {
    const std::string process = std::to_string(getpid()) + "\n";
    if (ftruncate(file_, 0) == 0 && pwrite(file_, process.data(), process.size(), 0) < 0) return;
  }
};

Checkpoints::Checkpoints(CheckpointOptions options)
    : options_(checked(std::move(options))),
      interval_(parse_interval(options_.every)),
      warn_([](const std::string& what) { std::cerr << what << std::endl; }),
      last_time_(Clock::now()) {
  if (options_.folder.empty()) return;
  make_folder();
  remove_torn(options_.folder);
  const std::vector<std::string> there = checkpoints_in(options_.folder);
  storage::safetensors_file(path_of(options_.folder, 0));  // throws if files cannot be written
  if (!there.empty()) last_ = there.front();
}

Checkpoints::~Checkpoints() { settle(true); }

/// Makes the folder, and it this run's: in the beginning, and again if it has gone.
void Checkpoints::make_folder() {
  std::error_code error;
  if (lock_ != nullptr && fs::is_directory(options_.folder, error)) return;
  fs::create_directories(options_.folder, error);
  if (!fs::is_directory(options_.folder)) {
    throw Error(concat_text("cannot make the folder ", options_.folder, ": ",
                            error ? error.message() : "there is something else of that name"));
  }
  lock_.reset();
  lock_ = std::make_unique<Lock>(options_.folder);
}

std::int64_t Checkpoints::resume(const RunState& state) {
  if (!*this) return 0;
  const Resumed resumed = train::resume(options_.folder, state);
  for (const auto& [file, why] : resumed.damaged) {
    std::error_code error;
    fs::rename(file, file + ".damaged", error);
    warn_(concat_text(why, error ? "" : "; it is called .damaged now"));
  }
  last_ = resumed.file;
  staged_ = {resumed.file, resumed.steps};
  last_time_ = Clock::now();
  return resumed.steps;
}

const std::string& Checkpoints::last() {
  settle(true);
  return last_;
}

void Checkpoints::after_step(const RunState& state, std::int64_t steps) {
  using std::chrono::seconds;
  const bool due = interval_.unit == CheckpointInterval::Unit::Steps
                       ? steps % interval_.count == 0
                       : interval_.unit == CheckpointInterval::Unit::Seconds &&
                             Clock::now() - last_time_ >= seconds(interval_.count);
  write_if(due, state, steps);
}

void Checkpoints::after_epoch(const RunState& state, std::int64_t steps, std::int64_t epochs) {
  write_if(interval_.unit == CheckpointInterval::Unit::Epochs && epochs % interval_.count == 0, state, steps);
}

void Checkpoints::after_evaluation(const RunState& state, std::int64_t steps) {
  if (!*this || best_of(state.record, smaller_is_better_) != steps) return;
  settle(true);
  write(state, steps);
}

bool Checkpoints::save(const RunState& state, std::int64_t steps) {
  if (!*this) return true;
  if (steps < staged_.steps) {
    throw StateError(
        concat_text("a checkpoint after ", steps, " steps of a run that has been kept after ", staged_.steps));
  }
  settle(true);
  write(state, steps, true);
  settle(true, true);
  return staged_.steps == steps;
}

void Checkpoints::write_if(bool due, const RunState& state, std::int64_t steps) {
  if (!*this || !due) return;
  settle(interval_.unit != CheckpointInterval::Unit::Seconds);
  if (!disk_.valid()) write(state, steps);
}

void Checkpoints::write(const RunState& state, std::int64_t steps, bool ends) {
  if (steps == staged_.steps) return;
  last_time_ = Clock::now();
  const Written before = std::exchange(staged_, {path_of(options_.folder, steps), steps});
  try {
    make_folder();
    auto pending = std::make_shared<PendingFile>(stage_checkpoint(staged_.file, state, steps));
    const auto commit = [pending, best = best_of(state.record, smaller_is_better_), &options = options_] {
      pending->commit();
      remove_old(options.folder, options.keep, best);
    };
    try {
      disk_ = std::async(std::launch::async, commit);
    } catch (const std::system_error&) {
      disk_ = std::async(std::launch::deferred, commit);  // there is no thread to be had: whoever settles waits
    }
  } catch (const Error& error) {
    staged_ = before;
    tell(error.what(), ends);
  }
}

void Checkpoints::tell(const std::string& failure, bool ends) {
  std::error_code ignored;
  const bool kept = !last_.empty() && fs::exists(last_, ignored);
  const std::string then = ends ? "" : "; the run goes on";
  warn_(concat_text(failure, then,
                    kept ? concat_text(ends ? "; the last checkpoint is " : ", and is kept in ", last_) : ""));
}

/// Sees how the last write has ended, if it has; with `wait` in any case. `ends`: it is the run's last.
void Checkpoints::settle(bool wait, bool ends) {
  if (!disk_.valid()) return;
  if (!wait && disk_.wait_for(std::chrono::seconds(0)) == std::future_status::timeout) return;
  try {
    disk_.get();
    last_ = staged_.file;
  } catch (const std::exception& error) {
    staged_ = {};
    tell(error.what(), ends);
  }
}

}  // namespace palimpsest::train
