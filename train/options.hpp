#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <palimpsest/autograd/verify.hpp>
#include <palimpsest/core/types.hpp>
#include <palimpsest/ops/product.hpp>
#include <palimpsest/train/task.hpp>

namespace palimpsest::train {

/// The names of a run's options in messages. A program with flags puts theirs here, as "--memory ".
struct OptionNames {
  std::string program = "";  ///< begins the lines of warnings
  std::string memory = "memory ";
  std::string batch_size = "batch_size";
  std::string accumulate = "accumulate";
  std::string freeze = "frozen";
  std::string freeze_statistics = "freeze_statistics";
  std::string learning_rate = "learning rate";
  std::string offload_dir = "offload_dir";
  std::string no_evaluation = "no evaluation";
  std::string grid = "a grid";
  std::string seed = "seed";
  std::string precision = "precision";
  std::string resume = "Options::resume";
  std::string weights_except = "Options::weights_except";
  std::string length = "epochs, max_steps";  ///< of what a run's length and so its schedule follow
};

/// The keeping of a run: in which folder, and how often.
struct CheckpointOptions {
  std::string folder = "";       ///< made if it is missing; empty: nowhere
  std::string every = "1epoch";  ///< steps, seconds, minutes, hours or epochs: "500steps", "90s", "10min", "2h"
  std::int64_t keep = 3;         ///< the last so many stay, and the one with the best evaluation
};

/// A setting that a run's numbers depend on, as messages name it: "--depth", "100".
struct Setting {
  std::string name;
  std::string value;
};

/// How a task is run.
struct Options {
  Device device = Device::Cpu;
  /// The text that memory::parse() reads, as the flag --memory of the examples takes it: "shared", "checkpoint+shared",
  /// "dense1=checkpoint,*=shared", or a budget that the planner keeps to: "budget=60MiB", "budget=40%".
  std::string memory = "store-all";
  std::string rates = "";        ///< file of memory::Rates; empty: the library's
  std::string offload_dir = "";  ///< where values go on the CPU; empty: the system's folder for temporary files
  Verify verify = Verify::Off;
  std::int64_t batch_size = 64;
  /// Batches of batch_size / accumulate samples that one step adds up the gradients of, for their mean over all samples
  /// of the step: no more than one of them takes memory at a time. A normalisation has the statistics of each alone.
  std::int64_t accumulate = 1;
  std::int64_t epochs = 1;
  std::int64_t max_steps = 0;         ///< 0: no limit but the epochs
  std::int64_t evaluate_every = 1;    ///< epochs
  std::uint64_t seed = 0;             ///< of nn::Init
  ops::ProductOptions products = {};  ///< of nn::Init
  std::string weights = "";           ///< file that the model begins with (storage::load_weights); empty: the seed's
  std::vector<std::string> weights_except = {};  ///< patterns of tensors that keep the seed's
  std::string save_weights = "";                 ///< file for the weights at the end, of an interrupted run, too
  CheckpointOptions checkpoints = {};
  /// Folder of the run that this one goes on with, from its newest checkpoint, and that it is kept in unless
  /// `checkpoints` names another. If that names the same, a folder without a checkpoint begins a run.
  std::string resume = "";
  std::vector<Setting> settings = {};  ///< must be the same then, beside what the numbers of any task depend on
  bool quiet = false;                  ///< no progress
  OptionNames names = {};
};

/// How long a run is.
struct RunLength {
  std::int64_t batch_size;  ///< of a whole step: at most the number of samples
  std::int64_t steps_per_epoch;
  std::int64_t epochs;  ///< begun ones
  std::int64_t steps;
  std::int64_t micro_batch = 1;  ///< samples of one of the batches of a step (Options::accumulate)

  /// The batches of a step with so many samples.
  std::int64_t parts_of(std::int64_t samples) const { return (samples + micro_batch - 1) / micro_batch; }
};

/// Throws ValueError for a task without training data or `batch`, for numbers of samples, epochs and
/// steps that make no run, and for a batch size that `accumulate` does not divide.
RunLength run_length(const Task& task, const Options& options);
/// Samples of a whole batch in an evaluation, which is no larger than one of a step's; 0 without one.
std::int64_t evaluation_batch_size(const Task& task, const Options& options);

}  // namespace palimpsest::train
