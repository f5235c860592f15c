#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace palimpsest::reports {

/// A number of a step under the name that TensorBoard shows.
struct Scalar {
  std::string_view tag;
  double value;
};

/// The first record of an event file. `wall_time`: seconds since 1970.
std::string event_file_begin(double wall_time);
/// A record of scalars of one step.
std::string event_record(double wall_time, std::int64_t step, std::span<const Scalar> scalars);

/// The whole records at the beginning of an event file's content whose step is at most `step`: their bytes, and the
/// last of their steps, 0 if there is none. A record that is damaged, or whose end is missing, ends the search.
struct EventPrefix {
  std::size_t bytes = 0;
  std::int64_t last_step = 0;
};
EventPrefix events_up_to(std::string_view content, std::int64_t step);

}  // namespace palimpsest::reports
