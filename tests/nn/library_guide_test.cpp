// The code of docs/library.md, which quotes it.

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <palimpsest/autograd/gradcheck.hpp>
#include <palimpsest/autograd/op.hpp>
#include <palimpsest/autograd/verify.hpp>
#include <palimpsest/core/parallel.hpp>
#include <palimpsest/core/philox.hpp>
#include <palimpsest/memory/planner/planner.hpp>
#include <palimpsest/memory/policies.hpp>
#include <palimpsest/memory/request.hpp>
#include <palimpsest/nn/gradients.hpp>
#include <palimpsest/nn/layers.hpp>
#include <palimpsest/nn/model.hpp>
#include <palimpsest/nn/schedule.hpp>
#include <palimpsest/nn/sgd.hpp>
#include <palimpsest/ops/activation.hpp>
#include <palimpsest/ops/add.hpp>
#include <palimpsest/ops/check.hpp>
#include <palimpsest/ops/cross_entropy.hpp>
#include <palimpsest/ops/mse_loss.hpp>
#include <palimpsest/ops/pool.hpp>
#include <palimpsest/train/checkpoints.hpp>
#include <palimpsest/train/rehearsal.hpp>
#include <palimpsest/train/trainer.hpp>
#include "tests/support/quotes.hpp"
#include "tests/support/temporary_folder.hpp"

namespace palimpsest::test {
namespace {

struct Unit : nn::Block<Tensor(Tensor)> {
  Unit(nn::Init& init, std::int64_t channels)
      : conv(init, channels, channels, {.padding = ops::Padding::all(1)}), norm(init, channels, {.relu = true}) {
    add_module("conv", conv);
    add_module("norm", norm);
  }
  Tensor forward(Tensor x) override { return ops::add(x, norm(conv(x))); }

  nn::Conv2d conv;
  nn::BatchNorm2d norm;
};

struct Net : nn::Model<Tensor(Tensor)> {
  explicit Net(nn::Init init) : stem(init, 3, 8, {.kernel = 1}), unit1(init, 8), unit2(init, 8), head(init, 8, 4) {
    add_module("stem", stem);
    add_module("unit1", unit1);
    add_module("unit2", unit2);
    add_module("head", head);
  }
  Tensor forward(Tensor images) override { return head(ops::global_avg_pool(unit2(unit1(stem(std::move(images)))))); }

  nn::Conv2d stem;
  Unit unit1, unit2;
  nn::Linear head;
};

TEST(LibraryGuide, Tensors) {
  const Tensor x = Tensor::from_vector<float>({1, 2, 1, 3}, {1, 2, 3, 10, 20, 30});  // channel 0, then channel 1
  const std::vector<float> memory = {1, 10, 2, 20, 3, 30};                           // pixel by pixel
  const Tensor same = Tensor::from_layout({1, 2, 1, 3}, memory.data());
  EXPECT_EQ(x.to_vector<float>(), same.to_vector<float>());
  EXPECT_EQ(x.to_vector<float>()[3], 10);
}

TEST(LibraryGuide, Gradients) {
  Tensor weight = Tensor::from_vector<float>({1, 1, 1, 1}, {3});
  weight.requires_grad();
  const Tensor x = Tensor::from_vector<float>({1, 1, 1, 2}, {1, 5});
  ops::global_avg_pool(ops::conv2d(x, weight)).backward();
  const float slope = weight.grad().to_vector<float>()[0];  // 3: the mean of x
  EXPECT_EQ(slope, 3);
}

TEST(LibraryGuide, AModelInUse) {
  Net net(nn::Init(/*seed=*/1));
  const Tensor images = Tensor::zeros({2, 3, 8, 8});
  net.train(false);  // running statistics normalise, dropout is off
  const NoGrad no_grad;
  const std::vector<float> scores = net(images).to_vector<float>();
  EXPECT_EQ(scores.size(), 8U);
}

TEST(LibraryGuide, PoliciesByName) {
  Net net(nn::Init(1));
  net.set_memory(memory::parse("shared").policy());
  net.set_memory(memory::assign(memory::parse("unit1=checkpoint,*=shared").rules(), net.block_names()));
  EXPECT_EQ(net.block_names(), (std::vector<std::string>{"unit1", "unit2"}));
}

TEST(LibraryGuide, ARunThatIsKept) {
  const testing::TemporaryFolder temporary;
  const std::string folder = temporary / "run";
  const std::int64_t steps = 3;
  std::int64_t learned = 0;
  for (int run = 0; run < 2; ++run) {
    nn::Init init(1);
    nn::Linear net(init, 3, 2);
    nn::Sgd sgd(net.parameters(), {});
    const auto learn = [&](std::int64_t) { ++learned; };
    train::Checkpoints checkpoints({.folder = folder, .every = "500steps"});
    const train::RunState state{net, sgd, {init.dropout_generator()}};
    std::int64_t step = checkpoints.resume(state);
    for (; step < steps; ++step) {
      learn(step);
      checkpoints.after_step(state, step + 1);
    }
    checkpoints.save(state, step);
  }
  EXPECT_EQ(learned, steps) << "the second run finds it done";
  const train::Options options{.epochs = 2, .checkpoints = {.folder = folder, .every = "10min"}, .resume = folder};
  EXPECT_EQ(train::checkpoints_in(options.resume).size(), 1U);
}

TEST(LibraryGuide, ALoopByHand) {
  Net net(nn::Init(1));
  nn::Sgd sgd(net.parameters(), {.learning_rate = 0.1, .momentum = 0.9});
  const nn::Schedule schedule = nn::Schedule::cosine(0.1, /*total=*/10).with_warmup(2);
  const Tensor images = Tensor::zeros({2, 3, 8, 8});
  const Tensor labels = Tensor::from_vector<std::int32_t>({2}, {0, 3});
  const nn::GradientGuard guard(net.parameters());
  const VerifyScope verify(Verify::Sampled);
  for (std::int64_t step = 0; step < 10; ++step) {
    sgd.set_learning_rate(schedule.at(step));
    sgd.zero_grad();
    const Tensor loss = ops::cross_entropy(net(images), labels);
    loss.backward(guard);
    sgd.step();
  }
  EXPECT_EQ(sgd.state().size(), net.parameters().size());
}

TEST(LibraryGuide, MicroBatches) {
  Net net(nn::Init(1));
  nn::Sgd sgd(net.parameters(), {});
  const auto images = [](std::int64_t n) { return Tensor::zeros({n, 3, 8, 8}); };
  const auto labels = [](std::int64_t n) { return Tensor::zeros({n}, Dtype::Int32); };
  const auto targets = [](std::int64_t n) { return Tensor::zeros({n, 4}); };
  const nn::GradientGuard guard(net.parameters());
  sgd.zero_grad();
  for (const std::int64_t share : {5, 3}) {  // a batch of 8, as much at a time as there is memory for
    const Tensor scores = net(images(share));
    const Tensor error = ops::scale(ops::mse_loss(scores, targets(share)), 0.1);
    const Tensor loss = ops::add(ops::cross_entropy(scores, labels(share)), error);
    ops::scale(loss, static_cast<double>(share) / 8).backward(guard);
  }
  nn::clip_gradient_norm(net.parameters(), 1);
  sgd.step();
  EXPECT_LE(nn::gradient_norm(net.parameters()), 1 + 1e-6);
}

TEST(LibraryGuide, State) {
  Net net(nn::Init(1));
  nn::Sgd sgd(net.parameters(), {});
  ops::cross_entropy(net(Tensor::zeros({2, 3, 8, 8})), Tensor::zeros({2}, Dtype::Int32)).backward();
  sgd.step();
  Net other(nn::Init(2));
  nn::Sgd resumed(other.parameters(), {});
  nn::assign_by_name(other.parameters(), net.parameters());
  nn::assign_by_name(other.buffers(), net.buffers());
  resumed.set_state(sgd.state());  // momentum: "unit1.conv.weight.velocity"
  EXPECT_EQ(other.state_digest(), net.state_digest());
}

TEST(LibraryGuide, ABudgetByHand) {
  Net meta(nn::Init(1, Device::MetaCpu));
  nn::Sgd sgd(meta.parameters(), {});
  const Tensor images = Tensor::empty({2, 3, 8, 8}, Dtype::Float32, Device::MetaCpu, Tag::Data);
  const Tensor labels = Tensor::empty({2}, Dtype::Int32, Device::MetaCpu, Tag::Data);
  const auto step = [&](const PolicyPtr& policy) {
    if (policy != nullptr) meta.set_memory(policy);
    sgd.zero_grad();
    ops::cross_entropy(meta(images), labels).backward();
    sgd.step();
  };
  step(nullptr);  // the first step of a run is unlike the others
  const memory::Rehearsal rehearsal{.device = Device::MetaCpu, .step = step};
  const memory::Rates rates = memory::Rates::standard(Device::Cpu);
  const train::MemoryChoice choice = train::choose_memory("budget=1MiB", rehearsal, rates);
  Net net(nn::Init(1));
  choice.apply(net);
  const memory::StepForecast forecast = choice.planner->within(choice.budget).forecast;
  EXPECT_EQ(choice.budget, std::size_t{1} << 20);
  EXPECT_LE(forecast.peak, choice.budget);
  EXPECT_GT(choice.recipes.kept, 0U);

  const train::MemoryChoice by_block = train::choose_memory("unit1=checkpoint,*=shared", rehearsal, rates);
  EXPECT_EQ(by_block.planned, nullptr);
  EXPECT_EQ(by_block.rules.size(), 2U);
  EXPECT_THROW(train::choose_memory("budget=1KiB", rehearsal, rates), ValueError);
  EXPECT_THROW(train::choose_memory("budgets", rehearsal, rates), ValueError);
}

train::Task task() {
  using Batch = std::span<const Tensor>;
  train::Task task{
      .name = "Net",
      .make_model = [](nn::Init init) { return std::make_unique<Net>(std::move(init)); },
      .batch = [](std::int64_t n) -> std::vector<TensorSpec> {
        return {{{n, 3, 8, 8}}, {{n}, Dtype::Int32}};
      },
      .loss = train::with_model<Net>([](Net& net, Batch batch) { return ops::cross_entropy(net(batch[0]), batch[1]); }),
      .make_optimiser =
          [](std::vector<nn::NamedTensor> parameters) {
            return std::make_unique<nn::Sgd>(std::move(parameters), nn::SgdOptions{.learning_rate = 0.1});
          },
  };
  task.training =
      train::made_data("zeros", 16, [](std::int64_t /*epoch*/, std::int64_t /*first*/, std::int64_t n, Device device) {
        return std::vector<Tensor>{Tensor::zeros({n, 3, 8, 8}, Dtype::Float32, device, Tag::Data),
                                   Tensor::zeros({n}, Dtype::Int32, device, Tag::Data)};
      });
  return task;
}

TEST(LibraryGuide, ATaskIsRehearsedAndTrained) {
  const train::Task task = test::task();
  const train::Options options{.memory = "checkpoint", .verify = Verify::All, .batch_size = 4, .quiet = true};
  const train::MemoryChoice choice = train::choose_memory(task, options);
  const train::Forecast forecast = train::rehearse(task, options, choice);
  train::Trainer trainer(task, options, choice);
  trainer.run();
  EXPECT_EQ(trainer.peak().total, forecast.peak.total);
}

/// y = x * gate, of each image and channel: (N, C, H, W) and (N, C) give (N, C, H, W) (Hu et al. 2018, eq. 4).
class Gate : public Op {
 public:
  std::string_view name() const override { return "gate"; }
  Cost cost() const override { return Cost::Cheap; }
  Needs needs() const override { return {.inputs = bits(0, 1)}; }

  std::vector<TensorSpec> infer(std::span<const TensorSpec> inputs) const override {
    ops::check_same_float(name(), inputs);
    ops::check_rank(name(), 0, inputs[0].shape, 4, "(N, C, H, W)");
    ops::check_shape(name(), 1, inputs[1].shape, {inputs[0].shape.n(), inputs[0].shape.c()});
    return {inputs[0]};
  }

  void forward(ForwardContext& io) override {
    for_each_image(io.device(), io.input(0), [&]<class T>(T, std::int64_t image, std::int64_t pixels, std::int64_t c) {
      const T* const x = io.input(0).as<T>() + image * pixels * c;
      const T* const gate = io.input(1).as<T>() + image * c;
      T* const y = io.output().as<T>() + image * pixels * c;
      for (std::int64_t i = 0; i < pixels * c; ++i) y[i] = x[i] * gate[i % c];
    });
  }

  void backward(BackwardContext& io) override {
    const View x = io.input(0), gate = io.input(1), dy = io.grad_output();
    const GradientTarget dx = io.wants(0) ? io.grad_input(0) : GradientTarget();
    const GradientTarget dgate = io.wants(1) ? io.grad_input(1) : GradientTarget();
    for_each_image(io.device(), x, [&]<class T>(T, std::int64_t image, std::int64_t pixels, std::int64_t c) {
      const std::int64_t first = image * pixels * c;
      for (std::int64_t i = 0; dx.view && i < pixels * c; ++i) {
        T& to = dx.view.as<T>()[first + i];
        to = (dx.accumulate ? to : T{0}) + dy.as<T>()[first + i] * gate.as<T>()[image * c + i % c];
      }
      for (std::int64_t channel = 0; dgate.view && channel < c; ++channel) {
        T& to = dgate.view.as<T>()[image * c + channel];
        T sum = dgate.accumulate ? to : T{0};
        for (std::int64_t i = first + channel; i < first + pixels * c; i += c) sum += dy.as<T>()[i] * x.as<T>()[i];
        to = sum;
      }
    });
  }

 private:
  /// Calls body(zero of the element type, image, pixels of an image, channels): the threads share the images.
  template <class Body>
  void for_each_image(Device device, const View& x, const Body& body) const {
    if (device == Device::Cuda) throw DeviceError("[gate] has kernels for the CPU alone");
    ops::run_kernels(name(), device, x.dtype, [&](auto zero) {
      parallel_for(x.shape.n(), [&](std::int64_t image) { body(zero, image, x.shape.h() * x.shape.w(), x.shape.c()); });
    });
  }
};

Tensor gate(Tensor x, const Tensor& by) {
  return apply_single(std::make_unique<Gate>(), ops::inputs_of(std::move(x), by));
}

TEST(LibraryGuide, AnOpOfOnesOwnHasItsGradientsUnderEveryPolicy) {
  Random random(3);
  const auto drawn = [&](const Shape& shape) {
    std::vector<double> values(static_cast<std::size_t>(shape.count()));
    for (double& value : values) value = 2 * random.uniform() - 1;
    return Tensor::from_vector(shape, values).requires_grad();
  };
  const std::vector<Tensor> inputs{drawn({2, 3, 4, 2}), drawn({2, 3})};
  const GradcheckResult result =
      gradcheck([](std::span<const Tensor> in) { return gate(gate(in[0], in[1]), in[1]); }, inputs);
  EXPECT_TRUE(result.passed) << result.describe();
  EXPECT_THROW(gate(inputs[0], inputs[0]), ShapeError);

  struct Gated : nn::Model<Tensor(Tensor)> {
    struct Unit : nn::Block<Tensor(Tensor)> {
      explicit Unit(nn::Init& init) : conv(init, 4, 4, {.kernel = 1}), squeeze(init, 4, 4) {
        add_module("conv", conv);
        add_module("squeeze", squeeze);
      }
      Tensor forward(Tensor x) override {
        const Tensor by = ops::sigmoid(squeeze(ops::global_avg_pool(x)));
        return ops::relu(gate(conv(std::move(x)), by));
      }
      nn::Conv2d conv;
      nn::Linear squeeze;
    };
    explicit Gated(nn::Init init) : unit1(init), unit2(init) {
      add_module("unit1", unit1);
      add_module("unit2", unit2);
    }
    Tensor forward(Tensor x) override { return unit2(unit1(std::move(x))); }
    Unit unit1, unit2;
  };
  std::vector<float> pixels(3 * 4 * 5 * 5);
  for (float& pixel : pixels) pixel = static_cast<float>(random.uniform());
  const Tensor images = Tensor::from_vector({3, 4, 5, 5}, pixels);
  std::vector<std::vector<float>> gradients;
  for (const char* policy : {"store-all", "shared", "checkpoint", "checkpoint+shared", "offload"}) {
    Gated net(nn::Init(1));
    net.set_memory(memory::parse(policy).policy());
    const VerifyScope verify(Verify::All);
    weighted_sum(net(images), images).backward();
    gradients.push_back(net.parameters().front().tensor.grad().to_vector<float>());
    EXPECT_EQ(gradients.back(), gradients.front()) << policy;
  }
}

/// Steps by the sign of each gradient (Bernstein et al. 2018, algorithm 1).
class SignSgd : public nn::Optimiser {
 public:
  SignSgd(std::vector<nn::NamedTensor> parameters, double rate) : parameters_(std::move(parameters)), rate_(rate) {}

  void zero_grad() override {
    for (const auto& [name, parameter] : parameters_) parameter.zero_grad();
  }
  void step() override {
    for (const auto& [name, parameter] : parameters_) {
      const Tensor gradient = parameter.grad();
      if (!gradient || is_meta(parameter.device())) continue;  // a rehearsal has no numbers
      float* const weights = parameter.mutable_view().as<float>();
      const float* const g = gradient.view().as<float>();
      for (std::int64_t i = 0; i < parameter.shape().count(); ++i) {
        weights[i] -= static_cast<float>(rate_) * static_cast<float>((g[i] > 0) - (g[i] < 0));
      }
    }
  }
  double learning_rate() const override { return rate_; }
  void set_learning_rate(double rate) override { rate_ = rate; }
  std::vector<nn::NamedTensor> state() const override { return {}; }

 private:
  std::vector<nn::NamedTensor> parameters_;
  double rate_;
};

TEST(LibraryGuide, AnOptimiserOfOnesOwnIsRehearsedAndSteps) {
  train::Task task = test::task();
  task.make_optimiser = [](std::vector<nn::NamedTensor> parameters) {
    return std::make_unique<SignSgd>(std::move(parameters), 0.125);
  };
  const train::Options options{.memory = "shared", .batch_size = 4, .max_steps = 1, .quiet = true};
  const train::MemoryChoice choice = train::choose_memory(task, options);
  const train::Forecast forecast = train::rehearse(task, options, choice);
  train::Trainer trainer(task, options, choice);
  const nn::NamedTensor bias = trainer.model().parameters().back();
  trainer.run();
  EXPECT_EQ(trainer.peak().total, forecast.peak.total);
  for (const float value : bias.tensor.to_vector<float>()) EXPECT_EQ(std::abs(value), 0.125F) << bias.name;
}

TEST(LibraryGuide, ErrorsHaveTypes) {
  Net net(nn::Init(1));
  std::string message;
  allocator(Device::Cpu).set_limit(allocator(Device::Cpu).stats().live + 1024);
  try {
    net(Tensor::zeros({2, 3, 8, 8}));
  } catch (const OutOfMemory& error) {  // parameters, buffers and counters are as they were before the step
    message = error.what();
  } catch (const Error& error) {  // the root of all: one line, fit to be shown
    message = error.what();
  }
  allocator(Device::Cpu).set_limit(0);
  EXPECT_NE(message, "");
}

TEST(Documentation, TheGuideQuotesTheSources) {
  expect_quoted("docs/library.md",
                {"tests/nn/library_guide_test.cpp", "tests/storage/weights_test.cpp", "tests/reports/run_log_test.cpp",
                 "examples/own_model.cpp"},
                12);
}

}  // namespace
}  // namespace palimpsest::test
