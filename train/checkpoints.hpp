#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <future>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <palimpsest/train/checkpoint_file.hpp>

namespace palimpsest::train {

/// The interval between two checkpoints.
struct CheckpointInterval {
  enum class Unit : std::uint8_t { Steps, Seconds, Epochs };
  std::int64_t count = 1;
  Unit unit = Unit::Epochs;
};
/// Throws ValueError for a text that CheckpointOptions::every cannot be.
CheckpointInterval parse_interval(const std::string& text);

/// Options::checkpoints of a run, and where it is kept if it is resumed: where it was, unless they name another folder.
/// Throws DataError if there is nothing to resume then.
CheckpointOptions kept_as(const Options& options);

/// The checkpoints in a folder, the newest first; none where there is no such folder.
std::vector<std::string> checkpoints_in(const std::string& folder);

/// A checkpoint that a run goes on from.
struct Resumed {
  std::string file = "";   ///< empty: there was none
  std::int64_t steps = 0;  ///< that were done
  /// A newer one that is not whole.
  struct Damaged {
    std::string file;
    std::string why;  ///< names the file and the damaged part
  };
  std::vector<Damaged> damaged = {};
};
/// Makes a run what it was in the newest checkpoint of a folder that is whole. Throws what read_checkpoint() does, and
/// DataError, with all reasons, if there are checkpoints and none is whole.
Resumed resume(const std::string& folder, const RunState& state);

/// Keeps a run in a folder as it goes on, and takes it up again:
///
///     train::Checkpoints checkpoints({.folder = "runs/mine", .every = "10min"});
///     const train::RunState state{net, sgd, {init.dropout_generator()}};
///     std::int64_t step = checkpoints.resume(state);
///     for (; step < 10'000; ++step) {
///       ...
///       checkpoints.after_step(state, step + 1);
///     }
///     checkpoints.save(state, step);
///
/// Training waits while the state is handed to the system; another thread waits for the disk. If it is still waiting
/// when the next one is due, so does training; or, where the interval is one of time, the next one comes later. A file
/// has its name only when it is whole: a kill at any moment leaves the one before. A checkpoint that cannot be written
/// is told and tried again the next time.
class Checkpoints {
 public:
  /// Nothing is kept without a folder. The folder is this object's as long as it lives, and no other process's. Throws
  /// ValueError for options that make no sense, Error for a folder that cannot be made or written, StateError for one
  /// that another run is using.
  explicit Checkpoints(CheckpointOptions options);
  /// Waits for the disk.
  ~Checkpoints();
  Checkpoints(const Checkpoints&) = delete;
  Checkpoints& operator=(const Checkpoints&) = delete;

  explicit operator bool() const { return !options_.folder.empty(); }

  /// Messages about what went wrong go there; to standard error, if nothing else is said.
  void set_warn(std::function<void(const std::string&)> warn) { warn_ = std::move(warn); }
  /// The best metric is the smallest, or, as long as nothing is said, the largest.
  void set_smaller_is_better(bool on) { smaller_is_better_ = on; }

  /// Takes up the run in the folder: the number of steps that it has done; 0, and nothing has changed, if there is
  /// none. Damaged checkpoints are told, and get another name, so that they pass for none. Throws as train::resume().
  std::int64_t resume(const RunState& state);

  /// After step `steps` of the run, from 1; after `epochs` epochs. They write a checkpoint if it is time for one.
  void after_step(const RunState& state, std::int64_t steps);
  void after_epoch(const RunState& state, std::int64_t steps, std::int64_t epochs);
  /// Writes one if the last evaluation of the record is the best.
  void after_evaluation(const RunState& state, std::int64_t steps);
  /// The last of a run: writes one, unless there is one of this step, and waits for the disk. False, after a warning,
  /// if that did not succeed. Throws StateError for fewer steps than were kept or resumed already.
  bool save(const RunState& state, std::int64_t steps);

  const std::string& folder() const { return options_.folder; }
  /// The newest that the disk is known to have; empty for none.
  const std::string& last_known() const { return last_; }
  /// The same once the disk has what is on its way there.
  const std::string& last();

 private:
  using Clock = std::chrono::steady_clock;
  class Lock;

  /// A checkpoint on its way to the disk, or there.
  struct Written {
    std::string file = "";
    std::int64_t steps = -1;
  };

  CheckpointOptions options_;
  CheckpointInterval interval_;
  std::function<void(const std::string&)> warn_;
  bool smaller_is_better_ = false;
  std::unique_ptr<Lock> lock_;
  Clock::time_point last_time_;
  Written staged_;          // handed to the system last
  std::future<void> disk_;  // waits until the disk has it
  std::string last_;        // that the disk has

  void write_if(bool due, const RunState& state, std::int64_t steps);
  void write(const RunState& state, std::int64_t steps, bool ends = false);
  void make_folder();
  void tell(const std::string& failure, bool ends);
  void settle(bool wait, bool ends = false);
};

}  // namespace palimpsest::train
