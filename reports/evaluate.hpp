#pragma once

#include <cstddef>
#include <cstdint>
#include <ostream>
#include <string>
#include <vector>

#include <palimpsest/reports/run_report.hpp>
#include <palimpsest/train/class_results.hpp>

namespace palimpsest::reports {

/// The files that an evaluation writes; an empty name is no file.
struct EvaluationFiles {
  std::string report = "";       ///< in JSON: what it has measured, with a table of what was taken for what
  std::string predictions = "";  ///< CSV: a row for each sample that was evaluated, in their order
};

/// Finds out before anything takes long whether the files can be written and Options::weights can be read. Throws
/// Error, DataError, ValueError.
void check(const train::Options& options, const EvaluationFiles& files);

/// Evaluates the task's model as it begins a run, with the weights of Options::weights, and trains nothing: its score
/// and, for a task with class_scores, the accuracy of the five highest scores and a table of labels and predictions.
/// Prints a summary to `out` and writes the files; the report has `fields` at its end. False if a signal asked for the
/// end before it: nothing is written then. Throws as check(); ValueError for a task without evaluation data, and for
/// predictions of one without class_scores; OutOfMemory where the device has less left than the forecast; and what
/// reading weights and evaluating throw.
bool evaluate(std::ostream& out, const train::Task& task, const train::Options& options,
              const EvaluationFiles& files = {}, std::vector<Field> fields = {});

/// Rows of "sample,label,predicted,probability" behind such a header, and a column "file" where the samples of `data`,
/// which were evaluated in their order, are files; `predicted` is empty where a score is no number.
std::string predictions_csv(const train::ClassResults& results, const train::Data& data);

}  // namespace palimpsest::reports
