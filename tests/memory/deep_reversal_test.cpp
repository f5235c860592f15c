// Reversal at full depth: RevNet-110 and its 54 couplings. Gradients in float64 against those of store-all; in float32
// how much of the streams comes back, stage by stage, with a grid and without.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <iostream>
#include <map>

#include <palimpsest/nn/models/revnet.hpp>
#include <palimpsest/ops/cross_entropy.hpp>
#include "tests/support/reversal_drift.hpp"
#include "tests/support/tape_support.hpp"

namespace palimpsest::test {
namespace {

using DeepReversalTest = TapeTest;

using Gradients = std::map<std::string, std::vector<double>>;

Tensor random_images(const Shape& shape) {
  Random random(2);
  std::vector<double> pixels(static_cast<std::size_t>(shape.count()));
  for (double& pixel : pixels) pixel = random.normal();
  return Tensor::from_vector(shape, pixels);
}

Gradients gradients_in_float64(const PolicyPtr& policy) {
  nn::RevNet model(nn::RevNet::cifar(110), nn::Init(1, Device::Cpu, Dtype::Float64));
  model.set_memory(policy);
  ops::cross_entropy(model(random_images({4, 3, 16, 16})), Tensor::from_vector<std::int32_t>({4}, {0, 3, 5, 9}))
      .backward();
  Gradients gradients;
  for (const auto& [name, parameter] : model.parameters()) gradients[name] = parameter.grad().to_vector<double>();
  return gradients;
}

/// The largest difference of two tensors, relative to the largest element of the first.
double relative_error(const std::vector<double>& expected, const std::vector<double>& actual) {
  double largest = 0;
  double difference = 0;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    largest = std::max(largest, std::abs(expected[i]));
    difference = std::max(difference, std::abs(expected[i] - actual[i]));
  }
  return difference / largest;
}

TEST_F(DeepReversalTest, EveryGradientOfRevNet110InFloat64IsThatOfStoreAll) {
  const Gradients stored = gradients_in_float64(memory::store_all());
  const Gradients reversed = gradients_in_float64(memory::reversible());
  EXPECT_EQ(stored.size(), 329U);
  double worst = 0;
  for (const auto& [name, expected] : stored) {
    const double error = relative_error(expected, reversed.at(name));
    EXPECT_LE(error, 1e-9) << name;
    EXPECT_TRUE(std::isfinite(error)) << name;
    worst = std::max(worst, error);
  }
  EXPECT_GT(worst, 0);  // without a grid it is not exact: the streams were rebuilt
  std::cout << "worst relative error of a gradient: " << worst << '\n';
}

std::vector<StageDrift> drift(std::optional<int> grid) {
  nn::ResidualOptions spec = nn::RevNet::cifar(110);
  spec.grid = grid;
  return reversal_drift(spec, 2, 32);
}

/// Two couplings in each of nine units. If a unit changes the shape nothing is solved for; of the very first one's
/// streams the second is, which its branch read, but not the first, which nobody read.
std::size_t elements_solved_for(std::size_t stage) {
  const std::size_t couplings = stage == 0 ? 17 : 16;
  const std::size_t stream = 2 * (16U << stage) * (32U >> stage) * (32U >> stage);
  return couplings * stream;
}

TEST_F(DeepReversalTest, OnAGridEveryStageOfRevNet110ComesBackToTheBit) {
  const std::vector<StageDrift> stages = drift(16);
  for (std::size_t s = 0; s < stages.size(); ++s) {
    EXPECT_EQ(stages[s].elements, elements_solved_for(s)) << "stage " << s + 1;
    EXPECT_EQ(stages[s].same, stages[s].elements) << "stage " << s + 1;
    EXPECT_EQ(stages[s].largest_error, 0) << "stage " << s + 1;
  }
}

TEST_F(DeepReversalTest, WithoutAGridTheStagesOfRevNet110Drift) {
  const std::vector<StageDrift> stages = drift(std::nullopt);
  for (std::size_t s = 0; s < stages.size(); ++s) {
    EXPECT_EQ(stages[s].elements, elements_solved_for(s)) << "stage " << s + 1;
    EXPECT_LT(stages[s].same, stages[s].elements) << "stage " << s + 1;
    EXPECT_GT(stages[s].largest_error, 0) << "stage " << s + 1;
    EXPECT_LT(stages[s].largest_error, 1e-3) << "stage " << s + 1;
    const std::string key = "stage" + std::to_string(s + 1);
    RecordProperty(key + "_same_fraction", std::to_string(stages[s].same_fraction()));
    RecordProperty(key + "_largest_error", concat_text(stages[s].largest_error));
    std::cout << key << ": " << 100 * stages[s].same_fraction() << " % to the bit, largest relative error "
              << stages[s].largest_error << '\n';
  }
}

}  // namespace
}  // namespace palimpsest::test
