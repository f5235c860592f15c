#include <palimpsest/datasets/printable.hpp>

#include <cstddef>
#include <cstdint>

namespace palimpsest::datasets {
namespace {

/// The bytes of the character that begins a text, 0 if none does: RFC 3629, section 4.
std::size_t character(std::string_view text) {
  const auto byte = [&](std::size_t i) { return i < text.size() ? static_cast<std::uint8_t>(text[i]) : 0; };
  const auto follows = [&](std::size_t i, int low = 0x80, int high = 0xBF) {
    return byte(i) >= low && byte(i) <= high;
  };
  const int first = byte(0);
  if (first < 0x80) return first < 0x20 || first == 0x7F ? 0 : 1;
  if (first >= 0xC2 && first <= 0xDF) return follows(1) ? 2 : 0;
  if (first >= 0xE0 && first <= 0xEF) {
    return follows(1, first == 0xE0 ? 0xA0 : 0x80, first == 0xED ? 0x9F : 0xBF) && follows(2) ? 3 : 0;
  }
  if (first >= 0xF0 && first <= 0xF4) {
    const bool second = follows(1, first == 0xF0 ? 0x90 : 0x80, first == 0xF4 ? 0x8F : 0xBF);
    return second && follows(2) && follows(3) ? 4 : 0;
  }
  return 0;
}

}  // namespace

bool is_printable(std::string_view text) {
  while (!text.empty()) {
    const std::size_t size = character(text);
    if (size == 0) return false;
    text.remove_prefix(size);
  }
  return true;
}

std::string printable(std::string_view name) {
  constexpr std::string_view digits = "0123456789ABCDEF";
  std::string text;
  while (!name.empty()) {
    const std::size_t size = character(name);
    const auto byte = static_cast<std::uint8_t>(name.front());
    if (size > 0) {
      text += name.substr(0, size);
    } else {
      text += {'\\', 'x', digits[byte >> 4], digits[byte & 15]};
    }
    name.remove_prefix(size > 0 ? size : 1);
  }
  return text;
}

}  // namespace palimpsest::datasets
