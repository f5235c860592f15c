#include <palimpsest/train/class_results.hpp>

#include <algorithm>
#include <cmath>
#include <span>

#include <palimpsest/core/error.hpp>
#include <palimpsest/datasets/image_source.hpp>

namespace palimpsest::train {
namespace {

template <class T>
bool has_no_number(std::span<const T> row) {
  return std::any_of(row.begin(), row.end(), [](T score) { return std::isnan(score); });
}

template <class T>
Prediction predict(std::int64_t sample, std::span<const T> row, std::int32_t label) {
  if (has_no_number(row)) return {sample, label, -1, 0};
  const auto best = std::max_element(row.begin(), row.end());
  double sum = 0;
  for (const T score : row) sum += score == *best ? 1 : std::exp(static_cast<double>(score) - *best);
  return {sample, label, static_cast<std::int32_t>(best - row.begin()), 1 / sum};
}

/// The number of classes that come before this one, by their scores and then by their numbers.
template <class T>
std::int64_t rank(std::span<const T> row, std::int32_t label) {
  const auto own = row.begin() + label;
  return std::count_if(row.begin(), own, [&](T score) { return score >= *own; }) +
         std::count_if(own, row.end(), [&](T score) { return score > *own; });
}

constexpr std::int64_t top = 5;

}  // namespace

void ClassResults::add(const Tensor& scores, const Tensor& labels) {
  const auto refuse = [&](const char* expected) {
    throw ShapeError(
        concat_text("scores of classes are ", scores.shape(), " and labels ", labels.shape(), ", expected ", expected));
  };
  if (scores.shape().rank() != 2 || labels.shape() != Shape{scores.shape().n()}) refuse("(N, classes) and (N)");
  if (classes_ == 0) {
    classes_ = scores.shape().c();
    confusion_.resize(static_cast<std::size_t>(classes_ * classes_));
  }
  if (scores.shape().c() != classes_) refuse("as many classes in every batch");
  const std::vector<std::int32_t> classes = labels.to_vector<std::int32_t>();
  for (const std::int32_t label : classes) {
    if ((label < 0 || label >= classes_) && label != datasets::no_label)
      throw ValueError(concat_text("label ", label, " is not one of ", classes_, " classes"));
  }
  if (scores.dtype() == Dtype::Float64) return add_rows(scores.to_vector<double>(), classes);
  add_rows(scores.to_vector<float>(), classes);
}

template <class T>
void ClassResults::add_rows(const std::vector<T>& scores, const std::vector<std::int32_t>& labels) {
  const auto width = static_cast<std::size_t>(classes_);
  for (std::size_t i = 0; i < labels.size(); ++i) {
    const std::int64_t sample = samples_++;
    if (labels[i] == datasets::no_label) continue;
    const std::span<const T> row(scores.data() + i * width, width);
    const Prediction& made = predictions_.emplace_back(predict(sample, row, labels[i]));
    if (made.predicted < 0) continue;
    ++confusion_[static_cast<std::size_t>(made.label * classes_ + made.predicted)];
    in_top5_ += rank(row, made.label) < top ? 1 : 0;
  }
}

double ClassResults::accuracy() const {
  const auto right = std::count_if(predictions_.begin(), predictions_.end(),
                                   [](const Prediction& each) { return each.label == each.predicted; });
  return static_cast<double>(right) / static_cast<double>(predictions_.size());
}

std::optional<double> ClassResults::top5_accuracy() const {
  if (classes_ <= top) return std::nullopt;
  return static_cast<double>(in_top5_) / static_cast<double>(predictions_.size());
}

}  // namespace palimpsest::train
