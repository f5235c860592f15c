#include <palimpsest/reports/event_file.hpp>

#include <array>
#include <bit>
#include <optional>

namespace palimpsest::reports {
namespace {

// A record: its length (8 bytes), the checksum of these (4), its data, the checksum of the data (4); all little-endian.
constexpr std::size_t length_bytes = 8;
constexpr std::size_t checksum_bytes = 4;
constexpr std::size_t head_bytes = length_bytes + checksum_bytes;

// Fields of TensorFlow's Event, Summary and Summary.Value messages with their wire types (0 varint, 1 eight bytes,
// 2 length and bytes, 5 four bytes), as protocol buffers join them: number * 8 + type.
constexpr char event_wall_time = 1 * 8 + 1;
constexpr char event_step = 2 * 8 + 0;
constexpr char event_file_version = 3 * 8 + 2;
constexpr char event_summary = 5 * 8 + 2;
constexpr char summary_value = 1 * 8 + 2;
constexpr char value_tag = 1 * 8 + 2;
constexpr char value_simple_value = 2 * 8 + 5;

constexpr std::size_t wall_time_bytes = 1 + sizeof(double);

/// CRC-32C (Castagnoli, reflected), by bytes.
constexpr std::array<std::uint32_t, 256> crc_table = [] {
  std::array<std::uint32_t, 256> table{};
  for (std::uint32_t byte = 0; byte < 256; ++byte) {
    std::uint32_t crc = byte;
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1U) != 0 ? 0x82F63B78U : 0U);
    table[byte] = crc;
  }
  return table;
}();

/// The checksum as records have it: rotated, plus a constant, since a checksum of data that holds one says little.
std::uint32_t masked_crc(std::string_view data) {
  std::uint32_t crc = ~0U;
  for (const char byte : data) crc = (crc >> 8) ^ crc_table[(crc ^ static_cast<unsigned char>(byte)) & 0xFFU];
  return std::rotr(~crc, 15) + 0xA282EAD8U;
}

template <class Unsigned>
void put(std::string& to, Unsigned number) {
  for (std::size_t byte = 0; byte < sizeof number; ++byte) to += static_cast<char>(number >> (8 * byte) & 0xFFU);
}

template <class Unsigned>
Unsigned number_at(std::string_view from) {
  Unsigned number = 0;
  for (std::size_t byte = 0; byte < sizeof number; ++byte) {
    number |= static_cast<Unsigned>(static_cast<unsigned char>(from[byte])) << (8 * byte);
  }
  return number;
}

void put_varint(std::string& to, std::uint64_t number) {
  for (; number >= 0x80; number >>= 7) to += static_cast<char>((number & 0x7FU) | 0x80U);
  to += static_cast<char>(number);
}

void put_bytes(std::string& to, char field, std::string_view bytes) {
  to += field;
  put_varint(to, bytes.size());
  to += bytes;
}

std::string begun_event(double wall_time) {
  std::string event(1, event_wall_time);
  put(event, std::bit_cast<std::uint64_t>(wall_time));
  return event;
}

std::string framed(const std::string& data) {
  std::string record;
  put(record, static_cast<std::uint64_t>(data.size()));
  put(record, masked_crc(record));
  record += data;
  put(record, masked_crc(data));
  return record;
}

/// The data of the whole record at the beginning; nothing if that is damaged or goes on behind the end.
std::optional<std::string_view> record_at(std::string_view content) {
  if (content.size() < head_bytes) return std::nullopt;
  if (number_at<std::uint32_t>(content.substr(length_bytes)) != masked_crc(content.substr(0, length_bytes))) {
    return std::nullopt;
  }
  const auto size = number_at<std::uint64_t>(content);
  if (content.size() < head_bytes + checksum_bytes || size > content.size() - head_bytes - checksum_bytes) {
    return std::nullopt;
  }
  const std::string_view data = content.substr(head_bytes, size);
  if (number_at<std::uint32_t>(content.substr(head_bytes + size)) != masked_crc(data)) return std::nullopt;
  return data;
}

/// The step of an event as this file writes them; 0 for the first, which has none.
std::int64_t step_of(std::string_view event) {
  if (event.size() <= wall_time_bytes || event[wall_time_bytes] != event_step) return 0;
  std::uint64_t step = 0;
  int shift = 0;
  for (std::size_t at = wall_time_bytes + 1; at < event.size() && shift < 64; ++at, shift += 7) {
    step |= static_cast<std::uint64_t>(static_cast<unsigned char>(event[at]) & 0x7FU) << shift;
    if ((static_cast<unsigned char>(event[at]) & 0x80U) == 0) break;
  }
  return static_cast<std::int64_t>(step);
}

}  // namespace

std::string event_file_begin(double wall_time) {
  std::string event = begun_event(wall_time);
  put_bytes(event, event_file_version, "brain.Event:2");
  return framed(event);
}

std::string event_record(double wall_time, std::int64_t step, std::span<const Scalar> scalars) {
  std::string summary;
  for (const Scalar& scalar : scalars) {
    std::string value;
    put_bytes(value, value_tag, scalar.tag);
    value += value_simple_value;
    put(value, std::bit_cast<std::uint32_t>(static_cast<float>(scalar.value)));
    put_bytes(summary, summary_value, value);
  }
  std::string event = begun_event(wall_time);
  event += event_step;
  put_varint(event, static_cast<std::uint64_t>(step));
  put_bytes(event, event_summary, summary);
  return framed(event);
}

EventPrefix events_up_to(std::string_view content, std::int64_t step) {
  EventPrefix prefix;
  while (const std::optional<std::string_view> event = record_at(content.substr(prefix.bytes))) {
    if (step_of(*event) > step) break;
    prefix.last_step = step_of(*event);
    prefix.bytes += head_bytes + event->size() + checksum_bytes;
  }
  return prefix;
}

}  // namespace palimpsest::reports
