#include <palimpsest/nn/schedule.hpp>

#include <algorithm>
#include <cmath>
#include <numbers>

#include <palimpsest/core/error.hpp>

namespace palimpsest::nn {

Schedule::Schedule(Kind kind, double rate) : kind_(kind), rate_(rate) {
  if (!(rate >= 0)) throw ValueError(concat_text("schedule: learning rate is ", rate, ", expected at least 0"));
}

Schedule Schedule::constant(double rate) { return Schedule(Kind::Constant, rate); }

Schedule Schedule::step(double rate, std::vector<std::int64_t> milestones, double divisor) {
  if (!std::is_sorted(milestones.begin(), milestones.end())) throw ValueError("schedule: milestones must ascend");
  if (!(divisor > 0)) throw ValueError(concat_text("schedule: divisor is ", divisor, ", expected above 0"));
  Schedule schedule(Kind::Step, rate);
  schedule.milestones_ = std::move(milestones);
  schedule.divisor_ = divisor;
  return schedule;
}

Schedule Schedule::cosine(double rate, std::int64_t total) {
  if (total < 1) throw ValueError(concat_text("schedule: ", total, " steps, expected at least 1"));
  Schedule schedule(Kind::Cosine, rate);
  schedule.total_ = total;
  return schedule;
}

Schedule Schedule::with_warmup(std::int64_t steps) const {
  if (steps < 0) throw ValueError(concat_text("schedule: a warm-up of ", steps, " steps"));
  Schedule schedule = *this;
  schedule.warmup_ = steps;
  return schedule;
}

double Schedule::at(std::int64_t step) const {
  double rate = rate_;
  if (kind_ == Kind::Step) {
    const auto passed = std::upper_bound(milestones_.begin(), milestones_.end(), step) - milestones_.begin();
    rate /= std::pow(divisor_, static_cast<double>(passed));
  } else if (kind_ == Kind::Cosine) {
    const double progress = std::min(1.0, static_cast<double>(step) / static_cast<double>(total_));
    rate *= 0.5 * (1 + std::cos(std::numbers::pi * progress));
  }
  if (step < warmup_) rate *= static_cast<double>(step + 1) / static_cast<double>(warmup_);
  return rate;
}

}  // namespace palimpsest::nn
