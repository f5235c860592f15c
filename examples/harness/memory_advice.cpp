#include "examples/harness/memory_advice.hpp"

#include <algorithm>

#include <palimpsest/memory/policies.hpp>
#include "examples/harness/memory_choice.hpp"
#include "examples/harness/peak_meter.hpp"

namespace palimpsest::harness {
namespace {

/// Bytes at the peak of an evaluation between two steps. No policy has a say in it: nothing is recorded.
std::size_t evaluation_bytes(const MakeModel& make_model, const Options& options, const TrainingDefaults& defaults,
                             Device device) {
  MetaTraining training(make_model, options, defaults, device);
  training.step();
  const PeakMeter meter(meta_of(device));
  training.evaluate();
  return meter.peak().total;
}

}  // namespace

std::string memory_advice(const MakeModel& make_model, const Options& options, const TrainingDefaults& defaults,
                          Device device, std::size_t limit) {
  // Before the rehearsals, whose memory would count in its own.
  const MemoryChoice memory = limit == 0 ? choose_memory(make_model, options, defaults, device) : MemoryChoice{};
  MetaTraining training(make_model, options, defaults, device);
  const memory::Rehearsal rehearsal = training.rehearsal();
  const memory::Rates rates = rates_for(options, device);
  std::size_t below = limit;
  if (limit == 0) {
    memory.apply(training.model());
    below = memory::forecast(rehearsal, nullptr, rates).peak - 1;
  }
  std::string fitting;
  for (const std::string_view name : memory::names()) {
    try {
      const std::size_t peak = memory::forecast(rehearsal, memory::parse(name), rates).peak;
      if (peak <= below) {
        fitting += concat_text(fitting.empty() ? "" : ", ", "--memory ", name, " (", format_mebibytes(peak), ")");
      }
    } catch (const ValueError&) {
      continue;  // it has nothing to act on in this model
    }
  }
  const memory::Planner planner(rehearsal, rates, may_offload(options, device));
  const std::size_t least = planner.candidates().front().forecast.peak;
  if (least <= below) {
    const std::size_t mebibytes = (least >> 20) + 1;
    fitting += concat_text(fitting.empty() ? "" : ", ", "--memory budget=", mebibytes, "MiB or more");
  }
  if (!fitting.empty()) {
    return limit == 0 ? "; by the forecast these need less: " + fitting : "; by the forecast these fit: " + fitting;
  }
  return concat_text("; by the forecast no policy fits with batches of ", run_length(options).batch_size,
                     ": the least is ", format_mebibytes(least), "; try a smaller --batch-size");
}

std::string evaluation_advice(const MakeModel& make_model, const Options& options, const TrainingDefaults& defaults,
                              Device device, std::size_t limit) {
  const auto bytes_with = [&](std::int64_t batch) {
    Options other = options;
    other.batch_size = batch;
    return evaluation_bytes(make_model, other, defaults, device);
  };
  const std::int64_t given = std::min(options.batch_size, test_images(options));
  const std::size_t needed = bytes_with(given);
  const std::size_t below = limit != 0 ? limit : needed - 1;
  std::int64_t batch = given / 2;
  while (batch > 0 && bytes_with(batch) > below) batch /= 2;
  std::string text = concat_text("; by the forecast an evaluation with batches of ", given, " needs ",
                                 format_mebibytes(needed), " under every policy; try ");
  if (batch > 0) text += concat_text("--batch-size ", batch, " (", format_mebibytes(bytes_with(batch)), ") or ");
  return text + "--no-eval";
}

}  // namespace palimpsest::harness
