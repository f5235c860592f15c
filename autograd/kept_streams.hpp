#pragma once

#include <cstddef>
#include <string>

#include <palimpsest/core/error.hpp>

namespace palimpsest {

/// The memory did not suffice in a step some of whose streams had left the range in which they can be solved for
/// (Op::can_solve). They are kept, which no forecast knows of.
class KeptStreamsOutOfMemory : public OutOfMemory {
 public:
  KeptStreamsOutOfMemory(const std::string& what, std::size_t bytes) : OutOfMemory(what), bytes_(bytes) {}
  /// The bytes of the streams that were kept until then.
  std::size_t bytes() const { return bytes_; }

 private:
  std::size_t bytes_;
};

}  // namespace palimpsest
