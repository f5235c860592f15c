// The forecast, over models x depths x policies x batches x numbers of threads: what a training step and an evaluation
// take on a meta device is what they then take on the device under test. Live bytes at the peak, by tag, to the byte;
// and what is reserved, to the byte, too: the allocators get the same requests in the same order, the meta device's
// takes its memory in pieces like the device's, and which block serves a request follows from these two alone.

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <memory>
#include <optional>
#include <ostream>
#include <string>
#include <unordered_map>
#include <vector>

#include <palimpsest/core/parallel.hpp>
#include <palimpsest/memory/planner/planner.hpp>
#include <palimpsest/memory/policies.hpp>
#include <palimpsest/memory/request.hpp>
#include <palimpsest/nn/models/densenet.hpp>
#include <palimpsest/nn/models/resnet.hpp>
#include <palimpsest/nn/models/revnet.hpp>
#include <palimpsest/nn/sgd.hpp>
#include <palimpsest/ops/cross_entropy.hpp>
#include "tests/support/test_device.hpp"

namespace palimpsest::test {
namespace {

using MakeModel = std::function<std::unique_ptr<nn::Classifier>(Device device)>;

/// A network of some depth, and patterns that give its blocks different policies.
struct Case {
  std::string name;
  MakeModel make;
  std::vector<std::string> rules;
};

void PrintTo(const Case& network, std::ostream* out) { *out << network.name; }

/// Two stages are enough for blocks of every kind: the first of a stage, those that follow it, and what is between
/// stages.
nn::ResidualOptions residual(std::vector<std::int64_t> units, std::optional<int> grid = {}) {
  nn::ResidualOptions spec;
  spec.units = std::move(units);
  spec.filters = {16, 28};
  spec.stem_channels = 16;
  spec.grid = grid;
  return spec;
}

nn::DenseNetOptions dense(std::vector<std::int64_t> layers) {
  nn::DenseNetOptions spec;
  spec.layers = std::move(layers);
  spec.growth_rate = 9;
  spec.stem_channels = 18;
  spec.dropout = 0.1;
  return spec;
}

template <class Model, class TensorSpec>
MakeModel maker(const TensorSpec& spec) {
  return [spec](Device device) { return std::make_unique<Model>(spec, nn::Init(5, device)); };
}

std::vector<Case> cases() {
  const std::vector<std::string> by_dense_block = {"dense1=shared,*=checkpoint", "dense1=checkpoint+shared,*=offload"};
  const std::vector<std::string> by_unit = {"stage1*=shared,*=checkpoint", "stage2*=checkpoint+shared,*=offload"};
  const std::vector<std::string> by_reversible_unit = {"stage1*=reversible,*=checkpoint",
                                                       "stage2*=reversible+shared,*=offload"};
  std::vector<Case> all;
  for (const bool deep : {false, true}) {
    const std::string depth = deep ? "Deep" : "Shallow";
    const std::vector<std::int64_t> units = deep ? std::vector<std::int64_t>{3, 2} : std::vector<std::int64_t>{1, 1};
    const std::vector<std::int64_t> layers = deep ? std::vector<std::int64_t>{4, 3} : std::vector<std::int64_t>{1, 2};
    all.push_back({depth + "DenseNet", maker<nn::DenseNet>(dense(layers)), by_dense_block});
    all.push_back({depth + "RevNet", maker<nn::RevNet>(residual(units)), by_reversible_unit});
    all.push_back({depth + "RevNetOnAGrid", maker<nn::RevNet>(residual(units, 12)), by_reversible_unit});
    all.push_back({depth + "ResNet", maker<nn::ResNet>(residual(units)), by_unit});
  }
  return all;
}

/// A request to an allocator: bytes for a tag, or the return of those of an earlier request.
struct Request {
  std::size_t bytes;
  Tag tag;
  std::size_t returns;  ///< number of the request whose bytes come back; its own for one that takes
  bool operator==(const Request&) const = default;
};

/// All requests of a device while it lives.
class Requests : public AllocationListener {
 public:
  explicit Requests(Device device) : allocator_(allocator(device)), before_(allocator_.set_listener(this)) {}
  ~Requests() override { allocator_.set_listener(before_); }

  void allocated(const void* address, std::size_t bytes, Tag tag) noexcept override {
    taken_[address] = all_.size();
    all_.push_back({bytes, tag, all_.size()});
  }
  void released(const void* address, std::size_t bytes, Tag tag) noexcept override {
    all_.push_back({bytes, tag, taken_[address]});
  }
  const std::vector<Request>& all() const { return all_; }

 private:
  Allocator& allocator_;
  AllocationListener* before_;
  std::vector<Request> all_;
  std::unordered_map<const void*, std::size_t> taken_;
};

/// A model in training. Its memory starts from nothing: no test's leftovers decide where a request is served.
class Run {
 public:
  Run(const MakeModel& make, std::int64_t batch, Device device)
      : device_(device),
        model_(make(device)),
        sgd_(model_->parameters(), {.learning_rate = 0.01, .momentum = 0.9}),
        images_(Tensor::zeros({batch, 3, side(), side()}, Dtype::Float32, device, Tag::Data)),
        labels_(Tensor::zeros({batch}, Dtype::Int32, device, Tag::Data)) {}

  static std::int64_t side() { return emulated() ? 6 : 16; }

  nn::Module& model() { return *model_; }

  void step() {
    sgd_.zero_grad();
    ops::cross_entropy((*model_)(images_), labels_).backward();
    sgd_.step();
  }

  void evaluate() {
    const NoGrad no_grad;
    model_->train(false);
    ops::count_correct((*model_)(images_), labels_);
    model_->train(true);
  }

  /// The allocator's statistics of one action, which starts with nothing cached.
  template <class Action>
  MemoryStats stats_of(const Action& action) {
    allocator(device_).release_cached();
    allocator(device_).reset_peak();
    action();
    return allocator(device_).stats();
  }

 private:
  Device device_;
  std::unique_ptr<nn::Classifier> model_;
  nn::Sgd sgd_;
  Tensor images_;
  Tensor labels_;
};

using SetMemory = std::function<void(nn::Module& model)>;

/// The demands of a run: its second step, when the optimiser's state is there, and an evaluation; and all requests from
/// the first parameter on.
struct Taken {
  MemoryStats step, evaluation;
  std::vector<Request> requests;
};

Taken take(const MakeModel& make, const SetMemory& memory, std::int64_t batch, Device device) {
  allocator(device).release_cached();
  EXPECT_EQ(allocator(device).stats().reserved, 0U) << "an earlier test still holds memory of " << device;
  const Requests requests(device);
  Taken taken;
  Run run(make, batch, device);
  memory(run.model());
  run.step();
  taken.step = run.stats_of([&] { run.step(); });
  taken.evaluation = run.stats_of([&] { run.evaluate(); });
  taken.requests = requests.all();
  return taken;
}

void expect_same(const MemoryStats& predicted, const MemoryStats& measured, const char* what) {
  SCOPED_TRACE(what);
  EXPECT_EQ(predicted.peak, measured.peak);
  EXPECT_EQ(predicted.peak_by_tag, measured.peak_by_tag);
  EXPECT_EQ(predicted.live_by_tag, measured.live_by_tag);
  EXPECT_EQ(predicted.peak_reserved, measured.peak_reserved);
}

void expect_same(const Taken& predicted, const Taken& measured) {
  expect_same(predicted.step, measured.step, "step");
  expect_same(predicted.evaluation, measured.evaluation, "evaluation");
  const auto [a, b] = std::mismatch(predicted.requests.begin(), predicted.requests.end(), measured.requests.begin(),
                                    measured.requests.end());
  if (a == predicted.requests.end() && b == measured.requests.end()) return;
  const auto text = [](const std::vector<Request>& all, auto request) -> std::string {
    if (request == all.end()) return "none";
    const bool back = request->returns != static_cast<std::size_t>(request - all.begin());
    return concat_text(back ? "return of " : "", request->bytes, " bytes for ", to_string(request->tag));
  };
  ADD_FAILURE() << "request " << a - predicted.requests.begin() << ": predicted " << text(predicted.requests, a)
                << ", measured " << text(measured.requests, b);
}

struct Policy {
  std::string name;
  SetMemory set;
};

/// All that can be asked for: policies and compositions, rules by block, and plans for budgets.
std::vector<Policy> policies(const Case& network, std::int64_t batch) {
  std::vector<Policy> all;
  const auto add = [&](const PolicyPtr& policy, const std::string& name) {
    all.push_back({name, [policy](nn::Module& model) { model.set_memory(policy); }});
  };
  for (const PolicyPtr& policy : memory::combinations()) add(policy, std::string(policy->name()));
  add(memory::offload({.at_least = 0}), "offload all");
  for (const std::string& rules : network.rules) {
    all.push_back({rules, [rules](nn::Module& model) {
                     model.set_memory(memory::assign(memory::parse(rules).rules(), model.block_names()));
                   }});
  }
  Run run(network.make, batch, meta_device());
  run.step();
  const memory::Rehearsal rehearsal{meta_device(), [&](const PolicyPtr& policy) {
                                      if (policy != nullptr) run.model().set_memory(policy);
                                      run.step();
                                    }};
  const memory::Planner planner(rehearsal, memory::Rates::standard(device()), memory::OffloadOptions{});
  const std::vector<memory::Candidate>& plans = planner.candidates();
  add(plans.front().policy, "least budget");
  add(plans[plans.size() / 2].policy, "budget in the middle");
  return all;
}

class ForecastTest : public ::testing::TestWithParam<Case> {
 protected:
  ~ForecastTest() override { set_thread_count(before_); }

 private:
  int before_ = thread_count();
};

/// A number of images and of threads. Two and three threads share the batches: with each, every policy runs, and with
/// one thread all of it.
struct Size {
  std::int64_t batch;
  std::vector<int> threads;
};

std::vector<Size> sizes() {
  if (emulated()) return {{3, {1}}};  // its kernels take a thousand times as long
  if (device() == Device::Cuda) return {{2, {1}}, {5, {1}}};
  return {{2, {1, 2}}, {5, {1, 3}}};
}

TEST_P(ForecastTest, IsWhatIsThenMeasured) {
  for (const auto& [batch, threads] : sizes()) {
    for (const Policy& policy : policies(GetParam(), batch)) {
      SCOPED_TRACE(concat_text(policy.name, ", batch ", batch));
      const Taken predicted = take(GetParam().make, policy.set, batch, meta_device());
      for (const int count : threads) {
        SCOPED_TRACE(concat_text(count, " threads"));
        set_thread_count(count);
        expect_same(predicted, take(GetParam().make, policy.set, batch, device()));
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Networks, ForecastTest, ::testing::ValuesIn(cases()),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace palimpsest::test
