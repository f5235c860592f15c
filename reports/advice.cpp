#include <palimpsest/reports/advice.hpp>

#include <cstdint>
#include <optional>
#include <vector>

#include <palimpsest/core/error.hpp>
#include <palimpsest/memory/policies.hpp>
#include <palimpsest/train/rehearsal.hpp>

namespace palimpsest::reports {
namespace {

/// The peak under a policy; none if that has nothing to act on.
std::optional<std::size_t> peak_under(const memory::Rehearsal& rehearsal, const train::Options& options,
                                      const PolicyPtr& policy) {
  try {
    return memory::forecast(rehearsal, policy, train::rates_for(options)).peak;
  } catch (const IdlePolicyError&) {
    return std::nullopt;
  }
}

/// "memory shared (12 MiB), memory checkpoint (10 MiB)": the single policies whose peak is at most `most`.
std::string fitting_policies(const memory::Rehearsal& rehearsal, const train::Options& options, std::size_t most,
                             const std::vector<std::string_view>& names = memory::names()) {
  std::vector<std::string> fitting;
  for (const std::string_view name : names) {
    const std::optional<std::size_t> peak = peak_under(rehearsal, options, memory::parse(name).policy());
    if (!peak || *peak > most) continue;
    fitting.push_back(concat_text(options.names.memory, name, " (", format_mebibytes(*peak), ")"));
  }
  return join(fitting);
}

/// A byte less than the run itself takes.
std::size_t below_own_peak(const train::Task& task, const train::Options& options) {
  const train::MemoryChoice memory = train::choose_memory(task, options);
  train::Rehearsal rehearsal(task, options);
  memory.apply(rehearsal.model());
  return memory::forecast(rehearsal.step_under(), nullptr, train::rates_for(options)).peak - 1;
}

}  // namespace

std::string memory_advice(const train::Task& task, const train::Options& options, std::size_t limit) {
  const std::size_t most = limit != 0 ? limit : below_own_peak(task, options);
  train::Rehearsal training(task, options);
  const memory::Rehearsal rehearsal = training.step_under();
  std::string fitting = fitting_policies(rehearsal, options, most);
  const memory::Planner planner(rehearsal, train::rates_for(options), train::plan_offloading(options));
  const std::size_t least = planner.candidates().front().forecast.peak;
  if (least <= most) {
    const std::size_t mebibytes = (least >> 20) + 1;
    const bool rounds = mebibytes << 20 <= most;
    fitting += concat_text(fitting.empty() ? "" : ", ", options.names.memory, "budget=", rounds ? mebibytes : least,
                           rounds ? "MiB" : "", limit == 0 ? " or more" : "");
  }
  if (!fitting.empty())
    return (limit == 0 ? "; by the forecast these need less: " : "; by the forecast these fit: ") + fitting;
  return concat_text("; by the forecast no policy fits with batches of ", run_length(task, options).batch_size,
                     ": the least is ", format_mebibytes(least), "; try a smaller ", options.names.batch_size);
}

std::string thrift_advice(const train::Task& task, const train::Options& options, std::size_t peak) {
  train::Rehearsal training(task, options);
  const memory::Rehearsal rehearsal = training.step_under();
  const std::size_t stored = peak_under(rehearsal, options, memory::store_all()).value();
  if (peak <= stored) return "";
  std::size_t least = stored;
  std::string thriftiest(memory::store_all()->name());
  for (const PolicyPtr& policy : memory::combinations()) {
    if (memory::offloads(*policy)) continue;
    const std::optional<std::size_t> other = peak_under(rehearsal, options, policy);
    if (!other || *other >= least) continue;
    least = *other;
    thriftiest = policy->name();
  }
  return concat_text("that is more than the ", format_mebibytes(stored), " of store-all; the thriftiest is ",
                     options.names.memory, thriftiest, " with ", format_mebibytes(least), "\n");
}

std::string evaluation_advice(const train::Task& task, const train::Options& options, std::size_t limit) {
  const auto bytes_with = [&](std::int64_t batch) {
    train::Options other = options;
    other.batch_size = batch * options.accumulate;
    return train::rehearse_evaluation(task, other);
  };
  const std::int64_t given = train::evaluation_batch_size(task, options);
  const std::size_t needed = bytes_with(given);
  const std::size_t most = limit != 0 ? limit : needed - 1;
  std::int64_t batch = given / 2;
  while (batch > 0 && bytes_with(batch) > most) batch /= 2;
  std::string text = concat_text("; by the forecast an evaluation with batches of ", given, " needs ",
                                 format_mebibytes(needed), " under every policy; try ");
  if (batch > 0) {
    text += concat_text(options.names.batch_size, " ", batch * options.accumulate, " (",
                        format_mebibytes(bytes_with(batch)), ") or ");
  }
  return text + options.names.no_evaluation;
}

std::string policy_advice(const train::Task& task, const train::Options& options) {
  train::Rehearsal training(task, options);
  std::vector<std::string_view> acting = memory::names();
  std::erase_if(acting, [](std::string_view name) { return memory::parse(name).policy()->keeps_everything(); });
  const std::string found = fitting_policies(training.step_under(), options, SIZE_MAX, acting);
  return found.empty() ? "; nor has any other policy" : "; by the forecast these have: " + found;
}

std::size_t left_on(Device device) {
  const Allocator& memory = allocator(device);
  const std::size_t all = memory::device_bytes(device);
  const std::size_t most = memory.limit() != 0 ? std::min(memory.limit(), all) : all;
  return most - std::min(most, memory.stats().live);
}

}  // namespace palimpsest::reports
