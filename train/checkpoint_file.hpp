#pragma once

// A run in a file: docs/formats.md.

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <palimpsest/core/error.hpp>
#include <palimpsest/core/generator.hpp>
#include <palimpsest/core/whole_file.hpp>
#include <palimpsest/nn/module.hpp>
#include <palimpsest/nn/optimiser.hpp>
#include <palimpsest/storage/safetensors.hpp>
#include <palimpsest/train/options.hpp>
#include <palimpsest/train/run_record.hpp>

namespace palimpsest::train {

/// A run cannot be resumed, or kept, as it was asked for: its settings are others, or the folder is another run's.
class ResumeError : public ValueError {
 public:
  using ValueError::ValueError;
};

/// A checkpoint is not as it was written.
class DamagedCheckpoint : public DataError {
 public:
  using DataError::DataError;
};

/// All that a run is between two steps. A program's own loop fills in the first line, and, with random numbers beside
/// them, the second.
struct RunState {
  nn::Module& model;
  nn::Optimiser& optimiser;
  std::vector<std::shared_ptr<Generator>> generators = {};  ///< of dropout: nn::Init::dropout_generator()
  RunRecord* record = nullptr;                              ///< null: nothing is recorded
  std::vector<Setting> settings = {};                       ///< must be the same when the run goes on
  /// The learning rate of a step, from 0: must be the recorded one in all steps that were done. Null: the optimiser's.
  std::function<double(std::int64_t step)> learning_rate = nullptr;
  std::string rate_follows_from = "";  ///< for the end of a message about it: " (it follows from --epochs)"
};

/// Puts a run that has done `steps` steps into a file, as far as the system's memory for files: the run may go on when
/// this returns, and commit() waits for the disk. Throws Error where it cannot be written, as storage::stage_weights().
PendingFile stage_checkpoint(const std::string& file, const RunState& state, std::int64_t steps);

/// Bytes of the tensors in a checkpoint; the record adds 48 for every step, and a header names them.
std::size_t checkpoint_bytes(const nn::Module& model, const nn::Optimiser& optimiser);

/// Compares the checksums of all parts, and the steps done with `steps`, if there are any. Throws DamagedCheckpoint,
/// naming the file and the part that is damaged or the way in which it is no checkpoint; DataError for a file that a
/// later version has written, Error for one that cannot be opened.
void verify_checkpoint(const std::string& file, std::optional<std::int64_t> steps = std::nullopt);

/// Patterns (storage::LoadOptions::except) of all in a checkpoint that is not the model's; none for any other file.
std::vector<std::string> beside_the_model(const storage::SafetensorsReader& reader);

/// Makes the run what it was when the file was written, and returns the number of steps that it had done. Throws
/// ResumeError, naming both values of each, for settings that differ and a learning rate that is not the one of a step
/// that was done; DataError as verify_checkpoint(), and listing them, for tensors that the model does not have or that
/// are missing; nothing has changed then. Takes the memory of the optimiser's state once more meanwhile.
std::int64_t read_checkpoint(const std::string& file, const RunState& state);

}  // namespace palimpsest::train
