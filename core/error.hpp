#pragma once

#include <memory>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>

namespace palimpsest {

/// Root of every exception the library throws on purpose. The message is one line, fit to be shown to a user.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;

  const char* what() const noexcept override { return located_ ? located_->c_str() : std::runtime_error::what(); }

  /// Says where it was thrown, "in model.stage1.conv: " before the message. The first to say so, who was nearest, is
  /// believed.
  void say_where(const std::string& place) {
    if (located_ == nullptr) located_ = std::make_shared<const std::string>("in " + place + ": " + what());
  }

 private:
  std::shared_ptr<const std::string> located_;  // shared, so that copying an exception cannot throw
};

/// Shapes that do not fit the operation: names the op, the shapes and what was expected.
class ShapeError : public Error {
 public:
  using Error::Error;
};

/// An element type the operation does not take, or two that should agree and do not.
class DtypeError : public Error {
 public:
  using Error::Error;
};

/// Tensors on different devices, or a device that this build or this machine does not have.
class DeviceError : public Error {
 public:
  using Error::Error;
};

/// A data file that is missing, truncated, oversized or malformed: names the file, the offset and what was expected.
class DataError : public Error {
 public:
  using Error::Error;
};

/// A value outside what a parameter allows (a negative stride, a dropout probability above 1, an unknown policy name).
class ValueError : public Error {
 public:
  using Error::Error;
};

/// A number left the range in which the arithmetic asked for is exact (see ops::couple on a grid).
class RangeError : public Error {
 public:
  using Error::Error;
};

/// A loss or a gradient that is infinite or no number: names it.
class NonFiniteError : public Error {
 public:
  using Error::Error;
};

/// A call that makes no sense now: backward on a consumed or failed tape, a parameter changed before its gradient was
/// taken.
class StateError : public Error {
 public:
  using Error::Error;
};

/// A memory policy, or a part of one, has nothing to act on in a model.
class IdlePolicyError : public ValueError {
 public:
  using ValueError::ValueError;
};

/// A restored value, or one that it was restored from, differs from the value that forward made: names the op that made
/// it, its block and the shapes (see autograd/verify.hpp). A defect of the program or of the machine.
class VerificationError : public Error {
 public:
  using Error::Error;
};

/// Memory asked for beyond the limit or beyond what the device has. Nothing was allocated.
class OutOfMemory : public Error {
 public:
  using Error::Error;
};

/// Bytes that could not be moved out of a device's memory, or could not be brought back: a full disk, a file that has
/// become shorter, a folder that cannot be written to, no more memory that can be pinned.
class OffloadError : public Error {
 public:
  using Error::Error;
};

/// Concatenates the printed forms of its arguments; what error messages are made with.
template <class... Parts>
std::string concat_text(const Parts&... parts) {
  std::ostringstream out;
  (out << ... << parts);
  return out.str();
}

/// The printed forms of a range's elements, separated: "a, b, c".
template <class Range>
std::string join(const Range& range, std::string_view separator = ", ") {
  std::ostringstream out;
  std::string_view before;
  for (const auto& element : range) {
    out << before << element;
    before = separator;
  }
  return out.str();
}

}  // namespace palimpsest
