#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

namespace palimpsest {

/// The part of what comes back for backward that is compared with what forward made: docs/design.md has the guarantees.
enum class Verify : std::uint8_t {
  Off,      ///< recipes are trusted
  Sampled,  ///< a part of every value, another one in every step: all of it within verify_period steps
  All,      ///< every byte, every time
};

/// Steps after which Verify::Sampled has compared every byte: a prime, so that samples do not keep step with the rows
/// and images of a tensor.
inline constexpr std::uint64_t verify_period = 31;

/// As a flag takes them: "off", "sampled", "all".
std::vector<std::string_view> verify_names();
/// Throws ValueError, listing the names, for any other.
Verify parse_verify(std::string_view name);
std::string_view to_string(Verify verify);

/// How the steps that this thread begins while it lives are verified; without one they are not. Scopes nest, and the
/// innermost counts. It counts the steps that begin in it, so that samples rotate: keep one for a whole training run.
class VerifyScope {
 public:
  explicit VerifyScope(Verify verify);
  ~VerifyScope();
  VerifyScope(const VerifyScope&) = delete;
  VerifyScope& operator=(const VerifyScope&) = delete;

  Verify verify() const { return verify_; }
  /// Counts a step that begins. Returns how many have before it.
  std::uint64_t begin_step() { return steps_++; }
  /// The number of the step that has begun last, 0 before the first.
  std::uint64_t last_step() const { return steps_ > 0 ? steps_ - 1 : 0; }
  /// The innermost of this thread, null for none.
  static VerifyScope* current();

 private:
  Verify verify_;
  std::uint64_t steps_ = 0;
  VerifyScope* outer_;
};

}  // namespace palimpsest
