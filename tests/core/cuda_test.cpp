// CUDA against the CPU: every op, the optimiser and running statistics; faults; the bound on a convolution's columns.
// The other suites run on CUDA as they are (tests/support/test_device.hpp).

#include <gtest/gtest.h>

#include <array>
#include <cstdint>
#include <numeric>
#include <vector>

#include <palimpsest/core/device.hpp>
#include <palimpsest/core/generator.hpp>
#include <palimpsest/memory/policies.hpp>
#include <palimpsest/nn/sgd.hpp>
#include <palimpsest/ops/add.hpp>
#include <palimpsest/ops/batch_norm.hpp>
#include <palimpsest/ops/conv2d.hpp>
#include <palimpsest/ops/couple.hpp>
#include <palimpsest/ops/cross_entropy.hpp>
#include <palimpsest/ops/dropout.hpp>
#include <palimpsest/ops/gemm.hpp>
#include <palimpsest/ops/kernels/conv2d_cuda_partition.hpp>
#include <palimpsest/ops/linear.hpp>
#include <palimpsest/ops/sgd_step.hpp>
#include "tests/support/op_support.hpp"

namespace palimpsest::test {
namespace {

/// Skipped where there is no card. No fault may be left behind.
class CudaTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (cuda_device_count() == 0) GTEST_SKIP() << "no CUDA device: " << cuda_unavailable_reason();
  }
  void TearDown() override {
    if (cuda_device_count() == 0) return;
    EXPECT_NO_THROW(synchronize(Device::Cuda)) << "a fault that no read has reported";
  }
};

// --- Every op --------------------------------------------------------------------------------------------------------

class CudaOpTest : public CudaTest, public ::testing::WithParamInterface<OpCase> {};
class CudaIntegerOpTest : public CudaOpTest {};
class CudaConvolutionTest : public CudaOpTest {};

bool is_exact(const OpCase& op_case) { return op_case.exact_on_integers; }
bool is_convolution(const OpCase& op_case) { return op_case.image_by_image != nullptr; }

INSTANTIATE_TEST_SUITE_P(Cuda, CudaOpTest, ::testing::ValuesIn(op_cases()), case_name<OpCase>);
INSTANTIATE_TEST_SUITE_P(Cuda, CudaIntegerOpTest, ::testing::ValuesIn(cases_where(is_exact)), case_name<OpCase>);
INSTANTIATE_TEST_SUITE_P(Cuda, CudaConvolutionTest, ::testing::ValuesIn(cases_where(is_convolution)),
                         case_name<OpCase>);

template <class T>
OpOutcome<T> outcome_on(Device where, const OpCase& op_case, const Fill& fill = nullptr) {
  return run_case<T>(op_case, fill, fill ? fill : Fill(uniform), where);
}

template <class T>
void expect_agreement(const OpCase& op_case, double tolerance) {
  SCOPED_TRACE(to_string(dtype_of<T>));
  const OpOutcome<T> cpu = outcome_on<T>(Device::Cpu, op_case);
  const OpOutcome<T> cuda = outcome_on<T>(Device::Cuda, op_case);
  expect_close(cuda.outputs, in_double(cpu.outputs), tolerance);
  expect_close(cuda.gradients, in_double(cpu.gradients), tolerance);
}

TEST_P(CudaOpTest, AgreesWithTheCpu) {
  expect_agreement<float>(GetParam(), GetParam().float32_tolerance);
  expect_agreement<double>(GetParam(), GetParam().float32_tolerance * 1e-7);  // 1e-12 for most
}

TEST_P(CudaOpTest, GivesTheSameBitsEveryTime) {
  expect_same_bits(outcome_on<float>(Device::Cuda, GetParam()), outcome_on<float>(Device::Cuda, GetParam()));
}

TEST_P(CudaIntegerOpTest, GivesTheBitsOfTheCpuOnIntegers) {
  expect_same_bits(outcome_on<float>(Device::Cuda, GetParam(), integers),
                   outcome_on<float>(Device::Cpu, GetParam(), integers));
  expect_same_bits(outcome_on<double>(Device::Cuda, GetParam(), integers),
                   outcome_on<double>(Device::Cpu, GetParam(), integers));
}

TEST_P(CudaConvolutionTest, TheBoundOnColumnsDoesNotChangeTheResult) {
  OpCase by_images = GetParam();
  by_images.run = by_images.image_by_image;
  const OpOutcome<float> whole = outcome_on<float>(Device::Cuda, GetParam(), uniform);
  const OpOutcome<float> parts = outcome_on<float>(Device::Cuda, by_images, uniform);
  expect_same_bits(outcome_on<float>(Device::Cuda, by_images, integers),
                   outcome_on<float>(Device::Cuda, GetParam(), integers));
  expect_close(parts.outputs, in_double(whole.outputs), 1e-5);
  expect_close(parts.gradients, in_double(whole.gradients), 1e-5);
}

// --- Dropout ---------------------------------------------------------------------------------------------------------

template <class T>
std::vector<std::vector<T>> dropped(Device where, const Shape& shape, double probability) {
  Random random(5);
  const auto values = converted<T>(uniform(shape.count(), random));
  const Tensor x = Tensor::from_vector(shape, values, where).requires_grad();
  const auto generator = std::make_shared<Generator>(Generator{99, 12345});
  const Tensor y = ops::dropout(x, probability, generator);
  std::vector<std::vector<T>> outcome{y.to_vector<T>()};
  weighted_sum(y, Tensor::from_vector(shape, values, where)).backward();
  outcome.push_back(x.grad().to_vector<T>());
  return outcome;
}

TEST_F(CudaTest, TheMaskOfDropoutIsTheCpus) {
  for (const Shape& shape : {Shape{1}, Shape{3}, Shape{4}, Shape{1023}, Shape{3, 5, 7, 11}, Shape{8, 16, 32, 32}}) {
    for (const double probability : {0.0, 0.1, 0.5, 0.97}) {
      expect_same_bits(dropped<float>(Device::Cuda, shape, probability),
                       dropped<float>(Device::Cpu, shape, probability), "value or gradient");
      expect_same_bits(dropped<double>(Device::Cuda, shape, probability),
                       dropped<double>(Device::Cpu, shape, probability), "value or gradient");
    }
  }
}

// --- The optimiser ---------------------------------------------------------------------------------------------------

/// Parameters and velocities after three steps over tensors of these sizes, one behind the other.
template <class T>
std::vector<T> after_steps(Device where, const std::vector<std::int64_t>& sizes, const ops::SgdStepOptions& spec) {
  Random random(17);
  const auto draw = [&](std::int64_t size) {
    return Tensor::from_vector({size}, converted<T>(uniform(size, random)), where);
  };
  std::vector<ops::SgdUpdate> updates;
  for (const std::int64_t size : sizes) {
    const Tensor velocity = spec.momentum > 0 ? Tensor::zeros({size}, dtype_of<T>, where) : Tensor();
    updates.push_back({draw(size), {}, velocity, updates.size() % 2 == 0 ? 1e-2 : 0});
  }
  for (int step = 0; step < 3; ++step) {
    for (ops::SgdUpdate& update : updates) update.gradient = draw(update.parameter.shape().count());
    ops::sgd_step(updates, spec);
  }
  std::vector<T> result;
  const auto append = [&](const Tensor& tensor) {
    const std::vector<T> values = tensor.to_vector<T>();
    result.insert(result.end(), values.begin(), values.end());
  };
  for (const ops::SgdUpdate& update : updates) {
    append(update.parameter);
    if (update.velocity) append(update.velocity);
  }
  return result;
}

template <class T>
void expect_same_steps(const std::vector<std::int64_t>& sizes, const ops::SgdStepOptions& spec, double tolerance) {
  const std::vector<T> expected = after_steps<T>(Device::Cpu, sizes, spec);
  expect_close(after_steps<T>(Device::Cuda, sizes, spec), std::vector<double>(expected.begin(), expected.end()),
               tolerance);
}

TEST_F(CudaTest, SgdAgreesWithTheCpu) {
  const std::vector<std::int64_t> sizes = {1, 7, 255, 256, 257, 8191, 8192, 8193, 20001};
  for (const ops::SgdStepOptions& spec : {ops::SgdStepOptions{0.1, 0, false}, ops::SgdStepOptions{0.1, 0.9, false},
                                          ops::SgdStepOptions{0.1, 0.9, true}}) {
    expect_same_steps<float>(sizes, spec, 1e-6);
    expect_same_steps<double>(sizes, spec, 1e-14);
  }
}

TEST_F(CudaTest, SgdOfMoreTensorsThanALaunchTakesAgreesWithTheCpu) {
  std::vector<std::int64_t> sizes;
  for (std::int64_t i = 0; i < 600; ++i) sizes.push_back(i % 5 + 1);
  expect_same_steps<float>(sizes, {0.1, 0.9, false}, 1e-6);
}

// --- Running statistics ----------------------------------------------------------------------------------------------

template <class T>
std::vector<std::vector<T>> running_statistics_after(Device where, const Shape& shape) {
  Random random(23);
  const Shape channels = {shape.c()};
  const ops::RunningStatistics running = {Tensor::zeros(channels, dtype_of<T>, where),
                                          Tensor::zeros(channels, dtype_of<T>, where)};
  const Tensor scale = Tensor::from_vector(channels, std::vector<T>(static_cast<std::size_t>(shape.c()), 1), where);
  for (int i = 0; i < 2; ++i) {
    std::vector<double> values = uniform(shape.count(), random);
    for (double& value : values) value += 100;  // a mean far larger than the deviation
    ops::batch_norm(Tensor::from_vector(shape, converted<T>(values), where), scale, scale, running, {});
  }
  return {running.mean.to_vector<T>(), running.variance.to_vector<T>()};
}

TEST_F(CudaTest, RunningStatisticsAgreeWithTheCpus) {
  for (const Shape& shape : {Shape{2, 1}, Shape{3, 5}, Shape{2, 33, 5, 7}, Shape{8, 16, 16, 16}, Shape{300, 3}}) {
    SCOPED_TRACE(concat_text(shape));
    expect_close(running_statistics_after<float>(Device::Cuda, shape),
                 in_double(running_statistics_after<float>(Device::Cpu, shape)), 2e-5);
    expect_close(running_statistics_after<double>(Device::Cuda, shape),
                 running_statistics_after<double>(Device::Cpu, shape), 1e-11);
  }
}

// --- Faults ----------------------------------------------------------------------------------------------------------

/// A linear layer behind a normalisation, and its optimiser. Two classes.
class Training {
 public:
  /// Looking at the gradients' numbers reads from the device, and so does solving for streams.
  explicit Training(bool check_finite = false, PolicyPtr policy = nullptr)
      : block_(std::make_shared<BlockInfo>(BlockInfo{"block", std::move(policy)})),
        sgd_({{"weight", weight_}, {"bias", bias_}}, {.learning_rate = 0.1, .check_finite = check_finite}) {}

  /// A step that the host follows without reading anything from the device, unless it looks at the gradients.
  Tensor step(std::int32_t second_label, float input = 1) {
    Tensor x = Tensor::from_vector<float>({2, 3}, {1, 2, 3, -1, 0, input}, Device::Cuda);
    x.requires_grad();  // only what is recorded is checked
    const BlockScope scope(block_, {});
    const Tensor labels = Tensor::from_vector<std::int32_t>({2}, {0, second_label}, Device::Cuda);
    sgd_.zero_grad();
    const Tensor on_grid = ops::couple(ops::scale(x, 0), x, 12);
    const Tensor normal = ops::batch_norm(on_grid, scale_, scale_, running_, {});
    const Tensor loss = ops::cross_entropy(ops::linear(normal, weight_, bias_), labels);
    loss.backward();
    sgd_.step();
    return loss;
  }

  std::vector<std::vector<float>> parameters() const { return values_of<float>(std::array{weight_, bias_}); }
  std::vector<std::vector<float>> statistics() const {
    return values_of<float>(std::array{running_.mean, running_.variance});
  }

 private:
  static Tensor parameter(const Shape& shape, const std::vector<float>& values) {
    return Tensor(Tensor::from_vector(shape, values, Device::Cuda, Tag::Parameter)).requires_grad();
  }

  std::shared_ptr<const BlockInfo> block_;
  Tensor weight_ = parameter({2, 3}, {0.5F, -0.25F, 0.125F, 1, 2, 3});
  Tensor bias_ = parameter({2}, {0.5F, -0.5F});
  Tensor scale_ = Tensor::from_vector<float>({3}, {1, 1, 1}, Device::Cuda);
  ops::RunningStatistics running_ = {Tensor::zeros({3}, Dtype::Float32, Device::Cuda),
                                     Tensor::zeros({3}, Dtype::Float32, Device::Cuda)};
  nn::Sgd sgd_;
};

template <class E, class Action>
void expect_error(const std::string& part, const Action& action) {
  try {
    action();
    ADD_FAILURE() << "nothing was thrown";
  } catch (const E& error) {
    EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
  }
}

TEST_F(CudaTest, ALabelOutOfRangeIsToldByTheNextReadAndTheStepIsWithoutEffect) {
  Training training;
  training.step(1);
  const auto before = training.parameters();
  const Tensor loss = training.step(2);
  expect_error<ValueError>("[cross_entropy] label 1 is 2, expected 0 to 1", [&] { loss.item(); });
  EXPECT_EQ(training.parameters(), before);
  expect_error<ValueError>("[cross_entropy] label 1 is -1, expected 0 to 1",
                           [&] { training.step(-1), synchronize(Device::Cuda); });
  EXPECT_EQ(training.parameters(), before);
}

TEST_F(CudaTest, AStepThatLooksAtItsGradientsTellsAFaultItself) {
  Training training(true);
  training.step(1);
  const auto before = training.parameters();
  expect_error<ValueError>("[cross_entropy] label 1 is 2, expected 0 to 1", [&] { training.step(2); });
  EXPECT_EQ(training.parameters(), before);
  training.step(1);
  EXPECT_NE(training.parameters(), before);
}

TEST_F(CudaTest, TrainingGoesOnAfterAFaultAsIfTheStepHadNotBeen) {
  Training faulty;
  Training clean;
  faulty.step(1);
  faulty.step(7);
  EXPECT_THROW(synchronize(Device::Cuda), ValueError);
  for (Training* training : {&faulty, &clean}) training->step(1);
  clean.step(1);
  expect_same_bits(faulty.parameters(), clean.parameters(), "parameter");
}

TEST_F(CudaTest, AValueOffTheGridsRangeIsToldByBackwardAndChangesNoState) {
  Training training(false, memory::reversible());
  training.step(1);
  const auto before = training.parameters();
  const auto statistics = training.statistics();
  expect_error<RangeError>("[couple] a value of magnitude 1e+06 leaves the range below 2^12",
                           [&] { training.step(1, 1e6F); });
  EXPECT_EQ(training.parameters(), before);
  EXPECT_EQ(training.statistics(), statistics);
  training.step(1, 1e6F);  // the stream is kept
  EXPECT_NE(training.parameters(), before);
  EXPECT_NE(training.statistics(), statistics);
}

TEST_F(CudaTest, WhereNothingIsSolvedForNoRangeMatters) {
  for (const PolicyPtr& policy : {PolicyPtr(), memory::store_all(), memory::checkpoint()}) {
    Training training(true, policy);
    EXPECT_NO_THROW(training.step(1, 1e6F));
  }
}

TEST_F(CudaTest, TheFirstFaultIsToldOnce) {
  Tensor between = Tensor::from_vector<double>({2}, {0.3, 0}, Device::Cuda);
  between.requires_grad();  // only what is recorded is checked
  const Tensor logits = Tensor::zeros({1, 3}, Dtype::Float32, Device::Cuda);
  ops::couple(between, between, 4);
  ops::cross_entropy(logits, Tensor::from_vector<std::int32_t>({1}, {5}, Device::Cuda));
  expect_error<ValueError>("[couple] input 0 is not on the grid 2^-4: it holds 0.3",
                           [&] { synchronize(Device::Cuda); });
  EXPECT_NO_THROW(synchronize(Device::Cuda));
}

TEST_F(CudaTest, CountingRightAnswersTellsOfAWrongLabelAtOnce) {
  const Tensor logits = Tensor::zeros({2, 3}, Dtype::Float32, Device::Cuda);
  const Tensor labels = Tensor::from_vector<std::int32_t>({2}, {0, 3}, Device::Cuda);
  expect_error<ValueError>("[count_correct] label 1 is 3", [&] { ops::count_correct(logits, labels); });
}

// --- Memory ----------------------------------------------------------------------------------------------------------

/// The highest live bytes of a convolution's forward and backward, above what its inputs hold.
std::size_t peak_of_convolution(Device where, std::size_t column_bytes) {
  const Tensor x = Tensor::zeros({6, 8, 20, 20}, Dtype::Float32, where).requires_grad();
  const Tensor weight = Tensor::zeros({8, 8, 3, 3}, Dtype::Float32, where).requires_grad();
  Allocator& memory = allocator(where);
  memory.reset_peak();
  const std::size_t before = memory.stats().live;
  const Tensor y =
      ops::conv2d(x, weight, {.padding = ops::Padding::all(1), .products = {.column_bytes = column_bytes}});
  weighted_sum(y, Tensor::zeros(y.shape(), Dtype::Float32, where)).backward();
  return memory.stats().peak - before;
}

TEST_F(CudaTest, MetaForeseesWorkspaceForAnyBoundOnColumns) {
  std::size_t last = 0;
  for (const std::size_t limit : {std::size_t{1}, std::size_t{300'000}, std::size_t{1} << 30}) {
    const std::size_t peak = peak_of_convolution(Device::Cuda, limit);
    EXPECT_EQ(peak_of_convolution(Device::MetaCuda, limit), peak) << limit;
    EXPECT_GT(peak, last);
    last = peak;
  }
  EXPECT_EQ(peak_of_convolution(Device::MetaCpu, 1), peak_of_convolution(Device::Cpu, 1));
}

#if defined(PALIMPSEST_HAS_CUDA)
/// Device memory of a size that a kernel may use, with as much behind it that it must not touch.
class Guarded {
 public:
  explicit Guarded(std::size_t bytes) : bytes_(bytes), buffer_(Device::Cuda, 2 * bytes + 4096, Tag::Workspace) {
    fill_bytes(buffer_.data(), Device::Cuda, pattern, buffer_.bytes());
  }

  float* data() const { return buffer_.as<float>(); }
  bool untouched_behind() const {
    std::vector<unsigned char> all(buffer_.bytes());
    copy_bytes(all.data(), Device::Cpu, buffer_.data(), Device::Cuda, all.size());
    return std::all_of(all.begin() + static_cast<std::ptrdiff_t>(bytes_), all.end(),
                       [](unsigned char byte) { return byte == pattern; });
  }

 private:
  static constexpr unsigned char pattern = 0x5A;
  std::size_t bytes_;
  Buffer buffer_;
};

TEST_F(CudaTest, ConvolutionsKeepToTheirWorkspace) {
  using namespace kernels::gpu;
  constexpr std::size_t f = sizeof(float);
  const auto bytes = [](std::int64_t floats) { return static_cast<std::size_t>(floats) * f; };
  for (const std::size_t limit : {std::size_t{1}, std::size_t{5000}, std::size_t{32} << 20}) {
    for (kernels::Conv2dGeometry g : {kernels::Conv2dGeometry{3, 5, 7, 6, 4, 7, 6, 3, 3, 1, 1, 1, 1},
                                      kernels::Conv2dGeometry{3, 4, 7, 6, 9, 4, 3, 3, 3, 2, 2, 1, 1},
                                      kernels::Conv2dGeometry{2, 8, 5, 5, 3, 9, 9, 1, 1, 1, 1, 2, 2},
                                      kernels::Conv2dGeometry{4, 8, 5, 5, 3, 5, 5, 1, 1, 1, 1, 0, 0},
                                      kernels::Conv2dGeometry{1, 2, 2, 2, 3, 2, 2, 5, 5, 1, 1, 2, 2}}) {
      g.products.column_bytes = limit;
      SCOPED_TRACE(concat_text("limit ", limit, ", ", g.c_in, " to ", g.c_out, " channels, kernel ", g.kernel_h));
      const Guarded x(bytes(g.n * g.h_in * g.w_in * g.c_in));
      const Guarded y(bytes(g.n * g.h_out * g.w_out * g.c_out));
      const Guarded w(bytes(g.c_out * g.kernel_h * g.kernel_w * g.c_in));
      const Guarded forward(kernels::conv2d_forward_workspace(Device::Cuda, g, f));
      const Guarded input(kernels::conv2d_grad_input_workspace(Device::Cuda, g, f));
      const Guarded weight(kernels::conv2d_grad_weight_workspace(Device::Cuda, g, f));
      conv2d_forward(g, x.data(), w.data(), y.data(), forward.data());
      conv2d_grad_weight(g, x.data(), y.data(), w.data(), false, weight.data());
      conv2d_grad_input(g, y.data(), w.data(), x.data(), true, input.data());
      for (const Guarded* memory : {&x, &y, &w, &forward, &input, &weight}) EXPECT_TRUE(memory->untouched_behind());
    }
  }
}
#endif

TEST_F(CudaTest, WhatIsUploadedIsThereAfterUse) {
  std::vector<float> host(1000);
  std::iota(host.begin(), host.end(), 0.0F);
  const Pinned pinned(host.data(), host.size() * sizeof(float));
  const Tensor x = Tensor::zeros({1000}, Dtype::Float32, Device::Cuda);
  const auto upload = make_upload();
  upload->begin();
  upload->copy(x.mutable_view().data, host.data(), host.size() * sizeof(float));
  upload->end();
  upload->use();
  const Tensor twice = ops::add(x, x);
  upload->wait();
  const std::vector<float> result = twice.to_vector<float>();
  for (std::size_t i = 0; i < host.size(); ++i) ASSERT_EQ(result[i], 2 * host[i]);
}

TEST_F(CudaTest, TensorsGoThereAndBack) {
  for (const Shape& shape : {Shape{}, Shape{7}, Shape{2, 3, 5, 7}}) {
    Random random(1);
    const std::vector<double> values = uniform(shape.count(), random);
    const Tensor there = Tensor::from_vector(shape, values, Device::Cuda);
    Tensor back = Tensor::empty(shape, Dtype::Float64);
    back.assign(there);
    EXPECT_EQ(back.to_vector<double>(), values);
    EXPECT_EQ(there.to_vector<double>(), values);
  }
}

TEST_F(CudaTest, TheCardIsNamedAndHasMemory) {
  EXPECT_EQ(cuda_unavailable_reason(), "");
  EXPECT_NE(cuda_device_name().find("compute capability"), std::string::npos) << cuda_device_name();
  const DeviceMemory memory = cuda_device_memory();
  EXPECT_GT(memory.total, 0U);
  EXPECT_LE(memory.free, memory.total);
}

}  // namespace
}  // namespace palimpsest::test
