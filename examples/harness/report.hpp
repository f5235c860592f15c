#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <ostream>
#include <string>

#include <palimpsest/memory/offload.hpp>
#include "examples/harness/dry_run.hpp"
#include "examples/harness/options.hpp"
#include "examples/harness/peak_meter.hpp"
#include "examples/harness/run_record.hpp"

namespace palimpsest::harness {

using Json = nlohmann::ordered_json;

/// The card that a run was on.
struct Card {
  std::string name;
  std::size_t used_bytes;  ///< as its driver sees it: the reserved memory, the driver's own and what others hold
};

/// What there is to say about a run.
struct Report {
  std::string model;
  std::string device;
  std::optional<Card> card;  ///< on CUDA
  Options options;
  Forecast forecast;
  RunRecord record;
  MemoryPeak peak;             ///< of the training steps
  MemoryPeak evaluation_peak;  ///< of the evaluations; zero if there was none
  memory::OffloadStats offloaded;
  std::size_t resident = 0;  ///< the process's own peak, VmHWM
  std::string state_digest;
  Json model_flags = Json::object();
};

/// The report as a file: memory in bytes, times in milliseconds, losses with all their digits.
Json to_json(const Report& report);

/// The same for people, in a few lines.
void print_summary(std::ostream& out, const Report& report);

}  // namespace palimpsest::harness
