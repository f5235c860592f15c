#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace palimpsest {

/// The 128-bit FNV-1a hash of a sequence of bytes (Fowler, Noll, Vo), for telling states apart: not against forgery.
class Hash128 {
 public:
  void add(const void* data, std::size_t bytes) {
    const auto* const octets = static_cast<const unsigned char*>(data);
    for (std::size_t i = 0; i < bytes; ++i) state_ = (state_ ^ octets[i]) * prime;
  }

  /// 32 hexadecimal digits.
  std::string hex() const {
    constexpr std::string_view digits = "0123456789abcdef";
    std::string text;
    for (int shift = 124; shift >= 0; shift -= 4) text += digits[static_cast<std::size_t>(state_ >> shift) & 15];
    return text;
  }

 private:
  static constexpr __uint128_t prime = (__uint128_t{1} << 88) + 0x13B;
  __uint128_t state_ = (__uint128_t{0x6C62272E07BB0142} << 64) | 0x62B821756295C58D;
};

}  // namespace palimpsest
