#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include <palimpsest/autograd/tensor.hpp>

namespace palimpsest::train {

/// The class that a classifier has given to a sample.
struct Prediction {
  std::int64_t sample;  ///< its place among all that were added, those without a label, too
  std::int32_t label;
  std::int32_t predicted;  ///< the class with the highest score, the first of several; -1 where a score is no number
  double probability;      ///< of it: softmax of the scores; 0 where there is none
};

/// The results of a classifier over batches: the classes that it has given to samples, and how often which to which.
class ClassResults {
 public:
  /// `scores`: (N, classes) float32 or float64; `labels`: (N) int32, each in [0, classes), or datasets::no_label for a
  /// sample that counts for nothing. Throws ShapeError, DtypeError and ValueError for others, and for another number of
  /// classes than before.
  void add(const Tensor& scores, const Tensor& labels);

  std::int64_t classes() const { return classes_; }
  const std::vector<Prediction>& predictions() const { return predictions_; }
  /// Samples with this label that were taken for that class.
  std::int64_t count(std::int64_t label, std::int64_t predicted) const {
    return confusion_[static_cast<std::size_t>(label * classes_ + predicted)];
  }
  /// The share of samples whose label is the class with the highest score.
  double accuracy() const;
  /// The share of samples whose label is among the five classes with the highest scores; none where there are no more
  /// classes than that. The first of equal scores count as higher.
  std::optional<double> top5_accuracy() const;

 private:
  std::int64_t classes_ = 0;
  std::int64_t samples_ = 0;
  std::vector<Prediction> predictions_;
  std::vector<std::int64_t> confusion_;  // (label, predicted)
  std::int64_t in_top5_ = 0;

  template <class T>
  void add_rows(const std::vector<T>& scores, const std::vector<std::int32_t>& labels);
};

}  // namespace palimpsest::train
