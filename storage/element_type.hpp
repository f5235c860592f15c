#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

#include <palimpsest/core/types.hpp>

namespace palimpsest::storage {

/// The element types that a file may have. Names are the format's: "F32".
enum class ElementType : std::uint8_t { F64, F32, F16, BF16, I64, I32, I16, I8, U64, U32, U16, U8, Bool };

/// Bytes of an element.
std::size_t size_of(ElementType type);
std::string_view to_string(ElementType type);
/// Nullopt for a name that is none.
std::optional<ElementType> parse_element_type(std::string_view name);

/// The type in which a tensor's elements are written as they are.
ElementType element_type(Dtype dtype);
/// True for F64, F32, F16 and BF16.
bool is_floating(ElementType type);

/// The number at `from`, which need not be aligned. Exact but for whole numbers beyond 2^53.
double number_at(ElementType type, const std::byte* from);

}  // namespace palimpsest::storage
