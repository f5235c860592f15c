#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

namespace palimpsest::train {

/// A training step that was done. `samples`: of its batch.
struct StepResult {
  double loss;
  double milliseconds;
  std::int64_t samples;
  std::size_t kept_streams = 0;  ///< left the range in which they can be solved for
  double learning_rate = 0;      ///< the step was made with it
  std::size_t peak = 0;          ///< bytes in use at once, at most
};

/// An evaluation that was done.
struct Evaluation {
  std::int64_t step;  ///< steps done before it
  double metric;      ///< the mean score over the evaluation data
};

/// The steps and evaluations of a run so far.
struct RunRecord {
  std::vector<StepResult> steps = {};
  std::vector<Evaluation> evaluations = {};
  bool interrupted = false;
  int signal = 0;  ///< that has interrupted it

  /// The metric of the model as it is now, if it was measured.
  std::optional<double> metric() const {
    if (evaluations.empty() || evaluations.back().step != static_cast<std::int64_t>(steps.size())) return std::nullopt;
    return evaluations.back().metric;
  }

  /// Over the last `count` steps, but without the very first, in which memory is taken from the system for the first
  /// time; unless it is the only one. 0 before it.
  double samples_per_second(std::size_t count = SIZE_MAX) const {
    const std::size_t warm = std::min<std::size_t>(steps.size(), steps.size() > 1 ? steps.size() - 1 : 1);
    double samples = 0;
    double milliseconds = 0;
    for (std::size_t i = steps.size() - std::min(count, warm); i < steps.size(); ++i) {
      samples += static_cast<double>(steps[i].samples);
      milliseconds += steps[i].milliseconds;
    }
    return milliseconds > 0 ? samples * 1000 / milliseconds : 0;
  }

  /// Steps with kept streams: how many, the first of them, from 0, and all streams that were kept.
  struct KeptStreams {
    std::size_t steps = 0;
    std::size_t first = 0;
    std::size_t streams = 0;
  };
  KeptStreams kept_streams() const {
    KeptStreams kept;
    for (std::size_t i = 0; i < steps.size(); ++i) {
      if (steps[i].kept_streams == 0) continue;
      if (kept.steps++ == 0) kept.first = i;
      kept.streams += steps[i].kept_streams;
    }
    return kept;
  }

  /// Samples of the steps from `first` on.
  std::int64_t samples(std::size_t first) const {
    std::int64_t sum = 0;
    for (std::size_t i = first; i < steps.size(); ++i) sum += steps[i].samples;
    return sum;
  }

  /// Mean loss of the steps from `first` on.
  double mean_loss(std::size_t first) const {
    double sum = 0;
    for (std::size_t i = first; i < steps.size(); ++i) sum += steps[i].loss;
    return first < steps.size() ? sum / static_cast<double>(steps.size() - first) : 0;
  }
};

}  // namespace palimpsest::train
