// Plans for chains: the best schedules that dynamic programming finds are those that trying out every one finds.

#include <gtest/gtest.h>

#include <functional>
#include <limits>
#include <map>

#include <palimpsest/autograd/verify.hpp>
#include <palimpsest/memory/planner/chain.hpp>
#include <palimpsest/memory/planner/planner.hpp>
#include <palimpsest/ops/activation.hpp>
#include <palimpsest/ops/batch_norm.hpp>
#include <palimpsest/ops/bias.hpp>
#include <palimpsest/ops/conv2d.hpp>
#include <palimpsest/ops/cross_entropy.hpp>
#include <palimpsest/ops/dropout.hpp>
#include <palimpsest/ops/linear.hpp>
#include <palimpsest/ops/pad_channels.hpp>
#include <palimpsest/ops/pool.hpp>
#include "tests/support/tape_support.hpp"

namespace palimpsest::test {
namespace {

using memory::Chain;
using memory::ChainLink;
using memory::ChainSchedule;
using memory::Plan;
using memory::Rates;
using memory::StepForecast;
using memory::StepTrace;

/// A network in which each op reads what the one before made, its kinds and sizes drawn by lot.
class ChainNet {
 public:
  ChainNet(std::uint64_t seed, int layers, Device device) : random_(seed, 5), device_(device) {
    std::int64_t channels = 3;
    images_ = tensor({batch, channels, side, side}, Tag::Data);
    labels_ = Tensor::zeros({batch}, Dtype::Int32, device, Tag::Data);
    channels = add_convolution(channels);
    while (static_cast<int>(layers_.size()) < layers) channels = add_layer(channels);
    const Tensor weight = parameter({10, channels});
    const Tensor bias = parameter({10});
    layers_.push_back([](Tensor x) { return ops::global_avg_pool(x); });
    layers_.push_back([weight, bias](Tensor x) { return ops::linear(x, weight, bias); });
  }

  /// A training step; returns the loss.
  Tensor step(const PolicyPtr& policy) {
    for (Tensor& each : parameters_) each.zero_grad();
    if (policy != nullptr) block_->policy = policy;
    Tensor x = images_;
    {
      const BlockScope scope(block_, std::vector<Tensor>{x});
      for (const auto& layer : layers_) x = layer(std::move(x));
    }
    Tensor loss = ops::cross_entropy(x, labels_);
    x = {};
    loss.backward();
    return loss;
  }

  memory::Rehearsal rehearsal() {
    step(memory::store_all());
    return {device_, [this](const PolicyPtr& policy) { step(policy); }};
  }

  const std::vector<Tensor>& parameters() const { return parameters_; }

 private:
  static constexpr std::int64_t batch = 2;
  static constexpr std::int64_t side = 16;

  Tensor tensor(const Shape& shape, Tag tag) {
    if (is_meta(device_)) return Tensor::empty(shape, Dtype::Float32, device_, tag);
    return random_tensor(shape, parameters_.size(), tag);  // draws nothing: the same net on every device
  }
  Tensor parameter(const Shape& shape) {
    return parameters_.emplace_back(tensor(shape, Tag::Parameter)).requires_grad();
  }

  /// Returns how many channels its result has.
  std::int64_t add_layer(std::int64_t channels) {
    switch (random_.below(10)) {
      case 0:
      case 6:
      case 7:
        layers_.push_back([](Tensor x) { return ops::relu(std::move(x)); });
        return channels;
      case 1: {
        const Tensor bias = parameter({channels});
        layers_.push_back([bias](Tensor x) { return ops::add_bias(std::move(x), bias); });
        return channels;
      }
      case 2:
        layers_.push_back([](Tensor x) { return ops::max_pool2d(x, 3, 1, ops::Padding::all(1)); });
        return channels;
      case 3:
        layers_.push_back([generator = std::make_shared<Generator>(7)](Tensor x) {
          return ops::dropout(std::move(x), 0.25, generator);
        });
        return channels;
      case 4: {
        const std::int64_t more = 1 + static_cast<std::int64_t>(random_.below(6));
        layers_.push_back([more](Tensor x) { return ops::pad_channels(x, more, 0); });
        return channels + more;
      }
      case 5: {
        const Tensor gamma = parameter({channels});
        const Tensor beta = parameter({channels});
        const ops::RunningStatistics running{tensor({channels}, Tag::Parameter), tensor({channels}, Tag::Parameter)};
        const bool relu = random_.below(2) == 0;
        layers_.push_back([=](Tensor x) {
          return ops::batch_norm(std::move(x), gamma, beta, running, {.training = true, .relu = relu});
        });
        return channels;
      }
      default:
        return add_convolution(channels);
    }
  }

  std::int64_t add_convolution(std::int64_t channels) {
    const std::int64_t made = 4 + static_cast<std::int64_t>(random_.below(9));
    const std::int64_t kernel = random_.below(2) == 0 ? 1 : 3;
    const Tensor weight = parameter({made, channels, kernel, kernel});
    layers_.push_back([weight, pad = kernel / 2](Tensor x) {
      return ops::conv2d(std::move(x), weight, {.padding = ops::Padding::all(pad)});
    });
    return made;
  }

  Random random_;
  Device device_;
  Tensor images_;
  Tensor labels_;
  std::vector<Tensor> parameters_;
  std::vector<std::function<Tensor(Tensor)>> layers_;
  std::shared_ptr<BlockInfo> block_ = std::make_shared<BlockInfo>(BlockInfo{"chain", nullptr});
};

/// Kept, or the nesting, of each op's result; what an op can do without never exists.
Plan plan_of(const StepTrace& step, const std::vector<int>& nesting) {
  Plan plan(step);
  for (std::size_t op = 0; op < step.ops.size(); ++op) {
    for (const int output : step.ops[op].outputs) {
      const StepTrace::Value& value = step.value(output);
      if (value.optional) plan.set(value.op, value.output, {Way::Replay});
    }
    if (op < nesting.size() && nesting[op] != ChainSchedule::kept)
      plan.set(static_cast<int>(op), 0, {.way = Way::Replay, .nesting = nesting[op]});
  }
  return plan;
}

/// A value without readers, in backward or for a replay, is given no nesting: it would only hold on to what it is made
/// of.
std::vector<int> without_idle(const StepTrace& step, std::vector<int> nesting) {
  for (std::size_t i = nesting.size(); i-- > 0;) {
    const StepTrace::Value& value = step.value(step.ops[i].outputs[0]);
    const bool replayed_from = i + 1 < nesting.size() && nesting[i + 1] != ChainSchedule::kept;
    if (value.read_by.empty() && !replayed_from) nesting[i] = ChainSchedule::kept;
  }
  return nesting;
}

/// Calls `each` with every schedule there is: the binary trees over the results, whose rightmost path is kept.
void every_schedule(std::size_t count, const std::function<void(const std::vector<int>&)>& each) {
  std::vector<int> nesting(count);
  struct Range {
    std::size_t begin, end;
    int depth;
    bool kept;
  };
  std::vector<Range> open{{0, count, 0, true}};
  const std::function<void()> fill = [&] {
    while (!open.empty() && open.back().begin == open.back().end) open.pop_back();
    if (open.empty()) return each(nesting);
    const std::vector<Range> here = open;
    const Range range = here.back();
    for (std::size_t root = range.begin; root < range.end; ++root) {
      open = here;
      open.pop_back();
      nesting[root] = range.kept ? ChainSchedule::kept : range.depth;
      open.push_back({range.begin, root, range.kept ? 0 : range.depth + 1, false});
      open.push_back({root + 1, range.end, range.kept ? 0 : range.depth + 1, range.kept});
      fill();
    }
  };
  fill();
}

TEST(EverySchedule, AreTheBinaryTrees) {
  for (const auto& [count, trees] : std::map<std::size_t, int>{{0, 1}, {1, 1}, {2, 2}, {3, 5}, {4, 14}, {8, 1430}}) {
    int seen = 0;
    every_schedule(count, [&](const std::vector<int>&) { ++seen; });
    EXPECT_EQ(seen, trees) << count;
  }
}

/// Backward of the last link but one reads nothing: keeping the result before it would be for nobody.
TEST(ChainSchedules, NothingIsKeptForNobody) {
  ChainLink idle;
  idle.bytes = 8;
  idle.replay_bytes = 8;
  idle.replay_seconds = 1;
  ChainLink reader = idle;
  reader.reads_input = true;
  const auto schedules = memory::chain_schedules(std::vector<ChainLink>{idle, reader, idle, idle}, 0, 8);
  ASSERT_FALSE(schedules.empty());
  EXPECT_EQ(schedules.back().replay_seconds, 0);
  EXPECT_EQ(schedules.back().nesting.front(), ChainSchedule::kept);
}

struct Net {
  std::uint64_t seed;
  int layers;
};

class ChainPlanTest : public TapeTest, public testing::WithParamInterface<Net> {
 protected:
  /// Bytes and seconds beyond those of a step that keeps everything, from the least bytes on.
  using Front = std::map<std::size_t, double>;

  static void add(Front& front, std::size_t peak, double seconds) {
    auto at = front.upper_bound(peak);
    if (at != front.begin() && std::prev(at)->second <= seconds + tie) return;
    at = front.insert_or_assign(peak, seconds).first;
    for (++at; at != front.end() && at->second >= seconds - tie;) at = front.erase(at);
  }

  StepForecast forecast(const std::vector<int>& nesting) const {
    return memory::forecast(rehearsal_, plan_of(step_, nesting).policy("schedule"), rates_);
  }

  /// The best schedules by dynamic programming, as plans leave them.
  std::vector<ChainSchedule> best_schedules() const {
    std::optional<Chain> chain = Chain::find(step_, 0, 128);
    if (!chain || static_cast<std::size_t>(chain->count()) != step_.ops.size()) return {};  // not a link for each op
    const auto links = chain->measure(rates_, [&](const Chain::Keeps& keeps) {
      std::vector<int> nesting;
      for (std::size_t i = 0; i < results_; ++i)
        nesting.push_back(keeps(static_cast<int>(i)) ? ChainSchedule::kept : 0);
      Plan plan = plan_of(step_, without_idle(step_, nesting));
      StepTrace step = memory::rehearse(rehearsal_, plan.policy("measured"));
      return Chain::Rehearsed{std::move(plan), std::move(step)};
    });
    if (!links) return {};
    auto schedules = memory::chain_schedules(*links, chain->floor(), std::numeric_limits<std::size_t>::max());
    for (ChainSchedule& schedule : schedules) schedule.nesting = without_idle(step_, schedule.nesting);
    return schedules;
  }

  static constexpr double tie = 1e-12;  // seconds that sums in another order may differ by

  ChainNet net_{GetParam().seed, GetParam().layers, meta_device()};
  memory::Rehearsal rehearsal_ = net_.rehearsal();
  Rates rates_ = Rates::standard(Device::Cpu);
  StepTrace step_ = memory::rehearse(rehearsal_, memory::store_all());
  std::size_t results_ = step_.ops.size() - 1;  // but the loss
};

TEST_P(ChainPlanTest, NoScheduleBeatsTheBest) {
  const std::vector<ChainSchedule> schedules = best_schedules();
  ASSERT_FALSE(schedules.empty());
  const double all_kept = forecast(std::vector<int>(results_, ChainSchedule::kept)).seconds;
  Front best;
  for (const ChainSchedule& schedule : schedules) {
    const StepForecast taken = forecast(schedule.nesting);
    EXPECT_EQ(taken.peak, static_cast<std::size_t>(schedule.peak));
    EXPECT_NEAR(taken.seconds - all_kept, schedule.replay_seconds, tie);
    add(best, taken.peak, taken.seconds - all_kept);
  }
  Front tried;
  every_schedule(results_, [&](const std::vector<int>& nesting) {
    const StepForecast taken = forecast(nesting);
    add(tried, taken.peak, taken.seconds - all_kept);
  });
  ASSERT_EQ(best.size(), tried.size());
  for (auto a = best.begin(), b = tried.begin(); a != best.end(); ++a, ++b) {
    EXPECT_EQ(a->first, b->first);
    EXPECT_NEAR(a->second, b->second, tie);
  }
  const memory::Planner planner(rehearsal_, rates_);
  for (const auto& [peak, seconds] : tried)
    EXPECT_LE(planner.within(peak).forecast.seconds - all_kept, seconds + tie) << peak;
}

/// Loss and gradients of the second step, and how many bytes it took.
TEST_P(ChainPlanTest, TheBitsAreStoreAllsAndThePeakIsTheForecast) {
  struct Result {
    std::vector<Bits> bits;
    std::size_t peak = 0;
  };
  const auto run = [&](const PolicyPtr& policy) {
    const std::size_t beside = live_bytes();
    ChainNet net(GetParam().seed, GetParam().layers, device());
    net.step(policy);
    test_allocator().reset_peak();
    Result result{{bits_of(net.step(policy))}, test_allocator().stats().peak - beside};
    for (const Tensor& parameter : net.parameters()) result.bits.push_back(bits_of(parameter.grad()));
    return result;
  };
  const Result expected = run(memory::store_all());
  const std::vector<ChainSchedule> schedules = best_schedules();
  for (const ChainSchedule& schedule : schedules) {
    const Result result = run(plan_of(step_, schedule.nesting).policy("schedule"));
    EXPECT_EQ(result.bits, expected.bits);
    EXPECT_EQ(result.peak, static_cast<std::size_t>(schedule.peak));
  }
  // A value that is dropped on the way and replayed once more is compared each time.
  const VerifyScope verify(Verify::All);
  EXPECT_EQ(run(plan_of(step_, schedules.front().nesting).policy("schedule")).bits, expected.bits);
}

/// Most by lot; the last three have twelve values and many schedules that differ.
std::vector<Net> nets() {
  std::vector<Net> all;
  for (std::uint64_t seed = 1; seed <= 12; ++seed) all.push_back({seed, 5});
  for (const std::uint64_t seed : {39, 45}) all.push_back({seed, 6});
  for (const std::uint64_t seed : {113, 119, 137}) all.push_back({seed, 8});
  return all;
}

INSTANTIATE_TEST_SUITE_P(Nets, ChainPlanTest, testing::ValuesIn(nets()), [](const auto& info) {
  return std::to_string(info.param.layers) + "Layers" + std::to_string(info.param.seed);
});

}  // namespace
}  // namespace palimpsest::test
