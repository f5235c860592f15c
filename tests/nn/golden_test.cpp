// Three training steps of small models against PyTorch's, in float64 and float32, under every memory policy.

#include <gtest/gtest.h>

#include <cmath>
#include <memory>
#include <regex>

#include <palimpsest/memory/policies.hpp>
#include <palimpsest/memory/request.hpp>
#include <palimpsest/nn/models/densenet.hpp>
#include <palimpsest/nn/models/resnet.hpp>
#include <palimpsest/nn/models/revnet.hpp>
#include <palimpsest/nn/sgd.hpp>
#include <palimpsest/ops/cross_entropy.hpp>
#include "tests/support/golden_file.hpp"
#include "tests/support/source_root.hpp"
#include "tests/support/test_device.hpp"

namespace palimpsest::testing {
namespace {

struct GoldenCase {
  std::string file;
  std::string policy;
  Dtype dtype;
  double tolerance;  // of the largest difference in a tensor, relative to the tensor's largest element
};

std::unique_ptr<nn::Classifier> make_model(const GoldenFile& golden, const std::string& file, Dtype dtype) {
  const nn::Init init(0, test::device(), dtype);
  if (file == "densenet") {
    auto spec = nn::DenseNetOptions::cifar(static_cast<std::int64_t>(golden.number("config.depth")),
                                           static_cast<std::int64_t>(golden.number("config.growth")));
    spec.classes = static_cast<std::int64_t>(golden.number("config.classes"));
    return std::make_unique<nn::DenseNet>(spec, init);
  }
  nn::ResidualOptions spec;
  spec.units = golden.integers("config.units");
  spec.filters = golden.integers("config.filters");
  spec.stem_channels = spec.filters.front();
  spec.filters.erase(spec.filters.begin());
  spec.bottleneck = golden.number("config.bottleneck") != 0;
  spec.classes = static_cast<std::int64_t>(golden.number("config.classes"));
  if (file == "resnet") return std::make_unique<nn::ResNet>(spec, init);
  return std::make_unique<nn::RevNet>(spec, init);
}

std::vector<double> values_of(const Tensor& tensor) {
  if (tensor.dtype() == Dtype::Float64) return tensor.to_vector<double>();
  const std::vector<float> values = tensor.to_vector<float>();
  return {values.begin(), values.end()};
}

Tensor tensor_of(const GoldenTensor& golden, Dtype dtype) {
  if (dtype == Dtype::Float64) return test::from_vector(golden.shape, golden.values);
  return test::from_vector(golden.shape, std::vector<float>(golden.values.begin(), golden.values.end()));
}

class GoldenTest : public ::testing::TestWithParam<GoldenCase> {
 protected:
  GoldenTest() : golden_(test::source_root() + "/tests/golden/" + GetParam().file + ".golden") {}

  void expect_close(const std::string& name, const std::vector<double>& actual) const {
    const std::vector<double>& expected = golden_[name].values;
    ASSERT_EQ(actual.size(), expected.size()) << name;
    double largest = 1e-30;
    double difference = 0;
    for (std::size_t i = 0; i < expected.size(); ++i) {
      largest = std::max(largest, std::abs(expected[i]));
      difference = std::max(difference, std::abs(actual[i] - expected[i]));
      ASSERT_TRUE(std::isfinite(actual[i])) << name << '[' << i << ']';
    }
    EXPECT_LE(difference / largest, GetParam().tolerance) << name;
  }

  void load_parameters(const nn::Module& model) const {
    for (nn::NamedTensor& parameter : model.parameters()) {
      parameter.tensor.assign(tensor_of(golden_["init." + golden_name(parameter.name)], GetParam().dtype));
    }
  }

  nn::SgdOptions sgd_spec() const {
    return {.learning_rate = golden_.number("config.lr"),
            .momentum = golden_.number("config.momentum"),
            .nesterov = golden_.number("config.nesterov") != 0,
            .weight_decay = golden_.number("config.weight_decay"),
            .decay_norm_and_bias = golden_.number("config.decay_norm_and_bias") != 0};
  }

  GoldenFile golden_;
};

TEST_P(GoldenTest, ThreeStepsAgreeWithPyTorch) {
  const std::unique_ptr<nn::Classifier> model = make_model(golden_, GetParam().file, GetParam().dtype);
  load_parameters(*model);
  model->set_memory(memory::parse(GetParam().policy).policy());
  nn::Sgd sgd(model->parameters(), sgd_spec());
  for (int step = 0; step < 3; ++step) {
    const std::string prefix = "step" + std::to_string(step) + ".";
    const GoldenTensor& labels = golden_[prefix + "labels"];
    const Tensor targets =
        test::from_vector(labels.shape, std::vector<std::int32_t>(labels.values.begin(), labels.values.end()));
    sgd.zero_grad();
    const Tensor loss = ops::cross_entropy((*model)(tensor_of(golden_[prefix + "images"], GetParam().dtype)), targets);
    loss.backward();
    expect_close(prefix + "loss", {loss.item()});
    for (const auto& [name, parameter] : model->parameters()) {
      expect_close(prefix + "grad." + golden_name(name), values_of(parameter.grad()));
    }
    for (const auto& [name, buffer] : model->buffers()) expect_close(prefix + "buffer." + name, values_of(buffer));
    sgd.step();
  }
  for (const auto& [name, parameter] : model->parameters()) {
    expect_close("step2.value." + golden_name(name), values_of(parameter));
  }
}

/// A file that has entries our model lacks would be compared only in part.
TEST_P(GoldenTest, TheModelHasExactlyTheFilesParameters) {
  const std::unique_ptr<nn::Classifier> model = make_model(golden_, GetParam().file, GetParam().dtype);
  std::size_t in_file = 0;
  for (const auto& [name, tensor] : golden_.tensors()) in_file += name.starts_with("init.") ? 1 : 0;
  EXPECT_EQ(model->parameters().size(), in_file);
  for (const auto& [name, parameter] : model->parameters()) {
    EXPECT_EQ(parameter.shape(), golden_["init." + golden_name(name)].shape) << name;
  }
}

std::vector<GoldenCase> all_cases() {
  std::vector<GoldenCase> cases;
  for (const std::string file : {"densenet", "resnet", "revnet", "revnet_bottleneck"}) {
    for (const std::string_view policy : memory::names()) {
      const bool acts = policy != "reversible" || file.starts_with("revnet");
      if (!acts) continue;
      cases.push_back({file, std::string(policy), Dtype::Float64, 1e-9});
      cases.push_back({file, std::string(policy), Dtype::Float32, 1e-4});
    }
  }
  return cases;
}

std::string case_name(const ::testing::TestParamInfo<GoldenCase>& info) {
  std::string name = info.param.file + "_" + info.param.policy + "_" + std::string(to_string(info.param.dtype));
  return std::regex_replace(name, std::regex("[^A-Za-z0-9_]"), "_");
}

INSTANTIATE_TEST_SUITE_P(Models, GoldenTest, ::testing::ValuesIn(all_cases()), case_name);

}  // namespace
}  // namespace palimpsest::testing
