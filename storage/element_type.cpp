#include <palimpsest/storage/element_type.hpp>

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>

#include <palimpsest/core/error.hpp>

namespace palimpsest::storage {
namespace {

static_assert(std::endian::native == std::endian::little, "the format's numbers are little-endian");

struct Entry {
  std::string_view name;
  std::size_t bytes;
};

/// In the order of ElementType.
constexpr std::array<Entry, 13> types = {{{"F64", 8},
                                          {"F32", 4},
                                          {"F16", 2},
                                          {"BF16", 2},
                                          {"I64", 8},
                                          {"I32", 4},
                                          {"I16", 2},
                                          {"I8", 1},
                                          {"U64", 8},
                                          {"U32", 4},
                                          {"U16", 2},
                                          {"U8", 1},
                                          {"BOOL", 1}}};

const Entry& entry_of(ElementType type) { return types[static_cast<std::size_t>(type)]; }

template <class T>
T read_as(const std::byte* from) {
  T value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

/// IEEE 754's binary16: a sign, 5 bits of exponent, 10 of fraction.
float widened_half(std::uint16_t half) {
  const std::uint32_t bits = half;
  const std::uint32_t sign = (bits & 0x8000U) << 16;
  const std::uint32_t exponent = bits >> 10 & 0x1FU;
  const std::uint32_t fraction = bits & 0x3FFU;
  if (exponent == 0x1F) return std::bit_cast<float>(sign | 0x7F800000U | fraction << 13);
  if (exponent != 0) return std::bit_cast<float>(sign | (exponent + 112) << 23 | fraction << 13);
  const float magnitude = static_cast<float>(fraction) * 0x1p-24F;
  return sign != 0 ? -magnitude : magnitude;
}

float widened_bfloat(std::uint16_t bits) { return std::bit_cast<float>(std::uint32_t{bits} << 16); }

}  // namespace

std::size_t size_of(ElementType type) { return entry_of(type).bytes; }
std::string_view to_string(ElementType type) { return entry_of(type).name; }

std::optional<ElementType> parse_element_type(std::string_view name) {
  const auto* const known =
      std::find_if(types.begin(), types.end(), [&](const Entry& entry) { return entry.name == name; });
  if (known == types.end()) return std::nullopt;
  return static_cast<ElementType>(known - types.begin());
}

ElementType element_type(Dtype dtype) {
  switch (dtype) {
    case Dtype::Float32:
      return ElementType::F32;
    case Dtype::Float64:
      return ElementType::F64;
    case Dtype::Int32:
      return ElementType::I32;
  }
  throw DtypeError("an unknown element type cannot be written");
}

bool is_floating(ElementType type) {
  return type == ElementType::F64 || type == ElementType::F32 || type == ElementType::F16 || type == ElementType::BF16;
}

double number_at(ElementType type, const std::byte* from) {
  switch (type) {
    case ElementType::F64:
      return read_as<double>(from);
    case ElementType::F32:
      return read_as<float>(from);
    case ElementType::F16:
      return widened_half(read_as<std::uint16_t>(from));
    case ElementType::BF16:
      return widened_bfloat(read_as<std::uint16_t>(from));
    case ElementType::I64:
      return static_cast<double>(read_as<std::int64_t>(from));
    case ElementType::I32:
      return read_as<std::int32_t>(from);
    case ElementType::I16:
      return read_as<std::int16_t>(from);
    case ElementType::I8:
      return read_as<std::int8_t>(from);
    case ElementType::U64:
      return static_cast<double>(read_as<std::uint64_t>(from));
    case ElementType::U32:
      return read_as<std::uint32_t>(from);
    case ElementType::U16:
      return read_as<std::uint16_t>(from);
    case ElementType::U8:
    case ElementType::Bool:
      return read_as<std::uint8_t>(from);
  }
  throw DtypeError("an unknown element type cannot be read");
}

}  // namespace palimpsest::storage
