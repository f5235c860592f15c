#include <palimpsest/autograd/verify.hpp>

#include <array>
#include <string>

#include <palimpsest/core/error.hpp>

namespace palimpsest {
namespace {

constexpr std::array<Verify, 3> all_of_them = {Verify::Off, Verify::Sampled, Verify::All};

thread_local VerifyScope* current_scope = nullptr;

}  // namespace

std::string_view to_string(Verify verify) {
  constexpr std::array<std::string_view, 3> names = {"off", "sampled", "all"};
  return names[static_cast<std::size_t>(verify)];
}

std::vector<std::string_view> verify_names() {
  std::vector<std::string_view> names;
  for (const Verify verify : all_of_them) names.push_back(to_string(verify));
  return names;
}

Verify parse_verify(std::string_view name) {
  std::string known;
  for (const Verify verify : all_of_them) {
    if (to_string(verify) == name) return verify;
    known += concat_text(known.empty() ? "" : ", ", to_string(verify));
  }
  throw ValueError(concat_text("unknown verification '", name, "', expected one of ", known));
}

VerifyScope::VerifyScope(Verify verify) : verify_(verify), outer_(current_scope) { current_scope = this; }
VerifyScope::~VerifyScope() { current_scope = outer_; }

VerifyScope* VerifyScope::current() { return current_scope; }

}  // namespace palimpsest
