// A classifier's results, counted from its scores.

#include <palimpsest/train/class_results.hpp>

#include <gtest/gtest.h>

#include <cmath>

#include <palimpsest/core/error.hpp>
#include <palimpsest/ops/cross_entropy.hpp>

namespace palimpsest::train {
namespace {

Tensor scores(std::int64_t n, std::int64_t classes, const std::vector<float>& values) {
  return Tensor::from_vector<float>({n, classes}, values);
}
Tensor labels(const std::vector<std::int32_t>& values) {
  return Tensor::from_vector<std::int32_t>({static_cast<std::int64_t>(values.size())}, values);
}

TEST(ClassResults, CountsWhatIsTakenForWhat) {
  ClassResults results;
  results.add(scores(3, 3, {1, 2, 0, /**/ 5, 1, 1, /**/ 0, 0, 3}), labels({1, 0, 1}));
  results.add(scores(1, 3, {0, 4, 4}), labels({2}));  // of equal ones the first is the prediction
  EXPECT_EQ(results.count(1, 1), 1);
  EXPECT_EQ(results.count(0, 0), 1);
  EXPECT_EQ(results.count(1, 2), 1);
  EXPECT_EQ(results.count(2, 1), 1);
  EXPECT_EQ(results.count(2, 2), 0);
  EXPECT_EQ(results.accuracy(), 0.5);
  EXPECT_EQ(results.top5_accuracy(), std::nullopt) << "three classes are always among five";
  ASSERT_EQ(results.predictions().size(), 4U);
  EXPECT_EQ(results.predictions()[2].predicted, 2);
  EXPECT_NEAR(results.predictions()[2].probability, std::exp(3) / (2 + std::exp(3)), 1e-6);
  EXPECT_NEAR(results.predictions()[3].probability, 1 / (2 + std::exp(-4)), 1e-6);
}

TEST(ClassResults, HasTheFiveHighestOfMoreClasses) {
  ClassResults results;
  results.add(scores(4, 7, {7, 6, 5, 4, 3, 2, 1,    // the label is the fifth
                            7, 6, 5, 4, 3, 2, 1,    // the sixth
                            1, 1, 1, 1, 1, 1, 1,    // the sixth: of equal ones the first are higher
                            1, 1, 1, 1, 1, 1, 9}),  // the highest
              labels({4, 5, 5, 6}));
  EXPECT_EQ(results.top5_accuracy(), 0.5);
  EXPECT_EQ(results.accuracy(), 0.25);
}

TEST(ClassResults, TakesNothingForAClassWhereAScoreIsNoNumber) {
  const Tensor made = scores(2, 6, {1, NAN, 0, 0, 0, 0, /**/ 0, INFINITY, 0, 0, 0, 0});
  const Tensor expected = labels({0, 1});
  ClassResults results;
  results.add(made, expected);
  EXPECT_EQ(results.predictions()[0].predicted, -1);
  EXPECT_EQ(results.count(0, 0), 0);
  EXPECT_EQ(results.predictions()[1].probability, 1);
  EXPECT_EQ(results.accuracy() * 2, static_cast<double>(ops::count_correct(made, expected)));
  EXPECT_EQ(results.top5_accuracy(), 0.5);
}

TEST(ClassResults, PassesOverSamplesWithoutALabel) {
  ClassResults results;
  results.add(scores(3, 6, {9, 0, 0, 0, 0, 0, /**/ 9, 0, 0, 0, 0, 0, /**/ 9, 0, 0, 0, 0, 0}), labels({0, -1, 3}));
  results.add(scores(2, 6, {9, 0, 0, 0, 0, 0, /**/ 0, 9, 0, 0, 0, 0}), labels({-1, 1}));
  ASSERT_EQ(results.predictions().size(), 3U);
  EXPECT_EQ(results.predictions()[1].sample, 2);
  EXPECT_EQ(results.predictions()[2].sample, 4);
  EXPECT_EQ(results.accuracy(), 2.0 / 3);
  EXPECT_EQ(results.top5_accuracy(), 1);
  EXPECT_EQ(results.count(0, 0) + results.count(3, 0) + results.count(1, 1), 3);
}

TEST(ClassResults, RefusesWhatIsNoClassifiers) {
  ClassResults results;
  EXPECT_THROW(results.add(scores(2, 3, {0, 0, 0, 0, 0, 0}), labels({0})), ShapeError);
  EXPECT_THROW(results.add(scores(1, 3, {0, 0, 0}), labels({3})), ValueError);
  results.add(scores(1, 3, {0, 0, 0}), labels({1}));
  EXPECT_THROW(results.add(scores(1, 4, {0, 0, 0, 0}), labels({1})), ShapeError);
}

}  // namespace
}  // namespace palimpsest::train
