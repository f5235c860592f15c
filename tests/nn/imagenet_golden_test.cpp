// A forward and backward of the networks for ImageNet against torchvision's and against the RevNet paper's in PyTorch,
// in float64. tests/golden/make_golden.py says what the files hold, and has the same functions as this one.

#include <gtest/gtest.h>

#include <cmath>
#include <memory>
#include <string>

#include <palimpsest/nn/models/densenet.hpp>
#include <palimpsest/nn/models/imagenet_resnet.hpp>
#include <palimpsest/nn/models/resnet.hpp>
#include <palimpsest/nn/models/revnet.hpp>
#include <palimpsest/ops/cross_entropy.hpp>
#include "tests/support/golden_file.hpp"
#include "tests/support/source_root.hpp"
#include "tests/support/test_device.hpp"

namespace palimpsest::testing {
namespace {

/// Numbers in [-1, 1) that follow from a name: SplitMix64 (Steele et al. 2014) from the name's FNV-1a hash on.
std::vector<double> drawn(const std::string& name, const Shape& shape) {
  std::uint64_t state = 0xCBF29CE484222325;
  for (const char byte : name) state = (state ^ static_cast<unsigned char>(byte)) * 0x100000001B3;
  std::vector<double> values(static_cast<std::size_t>(shape.count()));
  for (double& value : values) {
    std::uint64_t bits = state += 0x9E3779B97F4A7C15;
    bits = (bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9;
    bits = (bits ^ (bits >> 27)) * 0x94D049BB133111EB;
    bits ^= bits >> 31;
    value = 2 * (static_cast<double>(bits >> 11) * 0x1.0p-53) - 1;
  }
  return values;
}

/// Scales from 0.5 to 1.5, shifts and biases from -0.3 to 0.3, weights with variance 2 / fan_in.
std::vector<double> drawn_parameter(const std::string& name, const Shape& shape) {
  const double weights = std::sqrt(6 * static_cast<double>(shape[0]) / static_cast<double>(shape.count()));
  std::vector<double> values = drawn(name, shape);
  for (double& value : values) {
    if (shape.rank() > 1) {
      value *= weights;
    } else {
      value = name.ends_with("weight") ? 1 + 0.5 * value : 0.3 * value;
    }
  }
  return values;
}

std::unique_ptr<nn::Classifier> make_model(const std::string& file) {
  constexpr std::int64_t classes = 5;
  const nn::Init init(0, test::device(), Dtype::Float64);
  if (file == "densenet121") {
    auto spec = nn::DenseNetOptions::imagenet(121);
    spec.classes = classes;
    return std::make_unique<nn::DenseNet>(spec, init);
  }
  if (file == "resnet50") {
    auto spec = nn::ImageNetResNetOptions::of_depth(50);
    spec.classes = classes;
    return std::make_unique<nn::ImageNetResNet>(spec, init);
  }
  nn::ResidualOptions spec = file == "revnet104" ? nn::RevNet::imagenet(104) : nn::ResNet::imagenet(50);
  spec.classes = classes;
  spec.stem_channels /= 4;
  for (std::int64_t& filters : spec.filters) filters /= 4;
  if (file == "revnet104") return std::make_unique<nn::RevNet>(spec, init);
  return std::make_unique<nn::ResNet>(spec, init);
}

class ImageNetGoldenTest : public ::testing::TestWithParam<std::string> {
 protected:
  ImageNetGoldenTest() : golden_(test::source_root() + "/tests/golden/" + GetParam() + ".golden") {}

  static constexpr double tolerance = 1e-9;

  /// Compares a tensor's norm and its sum with weights, relative to the norm.
  void expect_digest(const std::string& key, const std::string& name, const Tensor& tensor) const {
    const std::vector<double> values = tensor.to_vector<double>();
    const std::vector<double> weights = drawn("digest." + name, tensor.shape());
    double squares = 0;
    double sum = 0;
    for (std::size_t i = 0; i < values.size(); ++i) {
      squares += values[i] * values[i];
      sum += values[i] * weights[i];
    }
    const std::vector<double>& expected = golden_[key + name].values;
    EXPECT_NEAR(std::sqrt(squares), expected[0], tolerance * expected[0]) << name;
    EXPECT_NEAR(sum, expected[1], tolerance * expected[0]) << name;
  }

  GoldenFile golden_;
};

TEST_P(ImageNetGoldenTest, LogitsAndGradientsAgreeWithPyTorch) {
  const std::unique_ptr<nn::Classifier> model = make_model(GetParam());
  for (nn::NamedTensor& parameter : model->parameters()) {
    const Shape& shape = parameter.tensor.shape();
    parameter.tensor.assign(test::from_vector(shape, drawn_parameter(golden_name(parameter.name), shape)));
  }
  const std::vector<double>& classes = golden_["labels"].values;
  const Shape images{static_cast<std::int64_t>(classes.size()), 3, 64, 64};
  const Tensor labels =
      test::from_vector(golden_["labels"].shape, std::vector<std::int32_t>(classes.begin(), classes.end()));
  const Tensor logits = (*model)(test::from_vector(images, drawn("images", images)));
  const Tensor loss = ops::cross_entropy(logits, labels);
  const std::vector<double> scores = logits.to_vector<double>();
  loss.backward();
  EXPECT_NEAR(loss.item(), golden_.number("loss"), tolerance * golden_.number("loss"));
  const std::vector<double>& expected = golden_["logits"].values;
  ASSERT_EQ(scores.size(), expected.size());
  for (std::size_t i = 0; i < scores.size(); ++i) EXPECT_NEAR(scores[i], expected[i], tolerance) << i;
  for (const auto& [name, parameter] : model->parameters()) {
    expect_digest("grad.", golden_name(name), parameter.grad());
  }
  for (const auto& [name, buffer] : model->buffers()) expect_digest("buffer.", golden_name(name), buffer);
  EXPECT_EQ(golden_.tensors().size(), 3 + model->parameters().size() + model->buffers().size());
}

INSTANTIATE_TEST_SUITE_P(Models, ImageNetGoldenTest,
                         ::testing::Values("densenet121", "resnet50", "resnet50_preactivation", "revnet104"),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace palimpsest::testing
