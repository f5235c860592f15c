#pragma once

#include <array>
#include <charconv>
#include <string>

namespace palimpsest {

/// The shortest text that is read back as the same number: "0.1", "nan", "-inf".
template <class Number>
std::string number_text(Number number) {
  std::array<char, 32> text;
  return {text.data(), std::to_chars(text.data(), text.data() + text.size(), number).ptr};
}

}  // namespace palimpsest
