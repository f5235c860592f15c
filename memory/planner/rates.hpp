#pragma once

#include <string>

#include <palimpsest/autograd/observer.hpp>
#include <palimpsest/core/types.hpp>

namespace palimpsest::memory {

/// A device's work in a second: the table that turns the work of a step into a predicted time. Plans compare times
/// of one table, so what counts is how the rates stand to each other.
struct Rates {
  double operations_per_second = 0;
  double bytes_per_second = 0;
  double seconds_per_run = 0;  ///< of every run of an op, whatever it does
  double offload_bytes_per_second =
      0;  ///< to or from where the offload recipe keeps values, as the step is delayed by it

  /// Arithmetic, memory and the run itself, one after the other.
  double seconds(const Work& work) const {
    return work.operations / operations_per_second + work.bytes / bytes_per_second + seconds_per_run;
  }
  /// The same of a run of this kind: what is fetched has been moved away before, and both are paid here.
  double seconds(RunKind kind, const Work& work) const {
    return kind == RunKind::Fetch ? 2 * work.bytes / offload_bytes_per_second : seconds(work);
  }

  /// Throws ValueError, naming it, for a rate that is no positive number.
  void check() const;

  /// The table that comes with the library, for the CPU (two cores with AVX-512) or CUDA.
  static Rates standard(Device device);

  /// Reads lines "name value", as save() writes them; what a line does not name is as in standard(). Lines that begin
  /// with # are left out. Throws DataError, naming the file and the line, for anything else, for a rate that is given
  /// twice and for a file without any.
  static Rates load(const std::string& file, Device device);
  /// The text that load() reads, with the lines of `comment` first.
  std::string text(const std::string& comment = "") const;
  /// Writes text(comment). Throws DataError, naming the file.
  void save(const std::string& file, const std::string& comment = "") const;
};

}  // namespace palimpsest::memory
