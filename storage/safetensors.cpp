#include <palimpsest/storage/safetensors.hpp>

#define XXH_INLINE_ALL
#define XXH_NO_INLINE_HINTS 1  // gcc refuses to force them in a build for debugging
#include <xxhash.h>

#include <algorithm>
#include <filesystem>
#include <utility>

#include <palimpsest/core/error.hpp>
#include <palimpsest/storage/in_quotes.hpp>
#include <palimpsest/storage/safetensors_header.hpp>

namespace palimpsest::storage {
namespace {

constexpr std::uint64_t most_header_bytes = 100'000'000;

// The checksums are a text of the metadata: after this begin, 16 digits of the header's checksum and 16 of each
// tensor's. The begin is there beside the key so that a bit that is flipped in either leaves the other to be found.
constexpr std::string_view checksums_key = "palimpsest.checksums";
constexpr std::string_view checksums_begin = "palimpsest-xxh3-64:";
constexpr std::size_t digits = 16;

/// XXH3, 64 bits, of what it is given.
class Checksum {
 public:
  Checksum() { XXH3_64bits_reset(&state_); }
  void add(const void* bytes, std::size_t count) { XXH3_64bits_update(&state_, bytes, count); }
  std::string hex() const {
    std::string text(digits, '0');
    XXH64_hash_t rest = XXH3_64bits_digest(&state_);
    for (auto digit = text.rbegin(); digit != text.rend(); ++digit, rest >>= 4) *digit = "0123456789abcdef"[rest & 0xF];
    return text;
  }

 private:
  XXH3_state_t state_;
};

/// The place at which the checksums' digits begin in a header's JSON; npos if there are none. Throws DataError where
/// one part of what announces them is there without the other.
std::size_t find_checksums(std::string_view header) {
  const std::size_t key = header.find(concat_text('"', checksums_key, "\":\""));
  const std::size_t begin = header.find(concat_text(":\"", checksums_begin));
  if (key == std::string::npos && begin == std::string::npos) return std::string::npos;
  if (begin != key + checksums_key.size() + 2) throw DataError("the header is damaged");
  return begin + 2 + checksums_begin.size();
}

/// The checksum of the header's length and of its JSON with zeros for the checksum itself.
std::string header_checksum(std::string_view header, std::size_t checksums) {
  const std::uint64_t length = header.size();
  Checksum sum;
  sum.add(&length, sizeof length);
  sum.add(header.data(), checksums);
  sum.add(std::string(digits, '0').data(), digits);
  const std::string_view behind = header.substr(checksums + digits);
  sum.add(behind.data(), behind.size());
  return sum.hex();
}

void check_header(std::string_view header) {
  const std::size_t checksums = find_checksums(header);
  if (checksums == std::string::npos) return;
  const bool whole = header.size() - checksums >= digits;
  if (!whole || header.substr(checksums, digits) != header_checksum(header, checksums)) {
    throw DataError("the header is damaged");
  }
}

/// In the order in which the format's own library writes.
std::vector<TensorToStore> in_file_order(std::vector<TensorToStore> tensors) {
  std::sort(tensors.begin(), tensors.end(), [&](const TensorToStore& a, const TensorToStore& b) {
    const std::size_t wide = size_of(a.type), other = size_of(b.type);
    return wide != other ? wide > other : a.name < b.name;
  });
  return tensors;
}

/// Writes one tensor's bytes and returns their checksum.
std::string write_tensor(const TensorToStore& tensor, std::uint64_t expected, std::ostream& out) {
  Checksum sum;
  std::uint64_t bytes = 0;
  tensor.write([&](std::span<const std::byte> piece) {
    out.write(reinterpret_cast<const char*>(piece.data()), static_cast<std::streamsize>(piece.size()));
    sum.add(piece.data(), piece.size());
    bytes += piece.size();
  });
  if (bytes == expected) return sum.hex();
  throw ValueError(concat_text("tensor ", in_quotes(tensor.name), " wrote ", bytes, " bytes, expected ", expected));
}

}  // namespace

SafetensorsReader::SafetensorsReader(const std::string& file) : file_(file) {
  std::error_code error;
  const std::filesystem::file_status status = std::filesystem::status(file_, error);
  if (!std::filesystem::exists(status)) fail(error ? error.message() : "there is no such file");
  if (!std::filesystem::is_regular_file(status)) fail("is no regular file");
  const std::uint64_t size = std::filesystem::file_size(file_, error);
  in_.open(file_, std::ios::binary);
  if (error || !in_) fail("cannot be read");
  const std::string text = read_header(size);
  try {
    check_header(text);
  } catch (const DataError& damage) {
    fail(damage.what());
  }
  data_ = sizeof(std::uint64_t) + text.size();
  Header header = parse_header(text, size - data_);
  if (!header.offence.empty()) fail("the header: " + header.offence);
  tensors_ = std::move(header.tensors);
  metadata_ = std::move(header.metadata);
  const auto checksums = metadata_.extract(std::string(checksums_key));
  if (!checksums.empty()) take_checksums(checksums.mapped());
}

void SafetensorsReader::fail(const std::string& why) const { throw DataError(concat_text(file_, ": ", why)); }

/// The first bytes were no length where no JSON follows them.
void SafetensorsReader::refuse_other_kind(std::uint64_t first_bytes) const {
  constexpr std::uint32_t zip = 0x04034B50;  // "PK\3\4": APPNOTE.TXT, section 4.3.7
  fail(static_cast<std::uint32_t>(first_bytes) == zip
           ? "is no safetensors file; it looks like one of PyTorch's own (a zip archive), which Python can convert: "
             "docs/formats.md says how"
           : "is no safetensors file");
}

std::string SafetensorsReader::read_header(std::uint64_t size) {
  std::uint64_t header_bytes = 0;
  if (size < sizeof header_bytes) {
    fail(concat_text("is no safetensors file: has ", size, " bytes, expected at least 8"));
  }
  if (!in_.read(reinterpret_cast<char*>(&header_bytes), sizeof header_bytes)) fail("cannot be read");
  const std::uint64_t most = std::min(most_header_bytes, size - sizeof header_bytes);
  if (header_bytes > most) {
    if (in_.peek() != '{') refuse_other_kind(header_bytes);
    fail(concat_text("a header of ", header_bytes, " bytes in a file of ", size, ", expected at most ", most));
  }
  std::string header(header_bytes, '\0');
  if (!in_.read(header.data(), static_cast<std::streamsize>(header_bytes))) fail("cannot be read");
  return header;
}

void SafetensorsReader::take_checksums(const std::string& checksums) {
  const std::size_t expected = checksums_begin.size() + digits * (tensors_.size() + 1);
  if (!checksums.starts_with(checksums_begin) || checksums.size() != expected) {
    fail(concat_text("the header: checksums of ", checksums.size(), " digits, expected ", expected));
  }
  std::size_t at = checksums_begin.size();
  for (StoredTensor& tensor : tensors_) tensor.checksum = checksums.substr(at += digits, digits);
  has_checksums_ = true;
}

void SafetensorsReader::read(const StoredTensor& tensor, std::uint64_t first, std::span<std::byte> to) {
  if (first > tensor.bytes || to.size() > tensor.bytes - first) {
    throw ValueError(concat_text("bytes ", first, " to ", first + to.size(), " of tensor ", in_quotes(tensor.name),
                                 ", which has ", tensor.bytes));
  }
  in_.clear();
  in_.seekg(static_cast<std::streamoff>(data_ + tensor.begin + first));
  if (in_.read(reinterpret_cast<char*>(to.data()), static_cast<std::streamsize>(to.size()))) return;
  fail(concat_text("tensor ", in_quotes(tensor.name), " cannot be read"));
}

void SafetensorsReader::read_all(const StoredTensor& tensor,
                                 const std::function<void(std::span<const std::byte> piece)>& take) {
  std::vector<std::byte> piece;
  for (std::uint64_t first = 0; first < tensor.bytes; first += piece.size()) {
    piece.resize(std::min<std::uint64_t>(piece_bytes, tensor.bytes - first));
    read(tensor, first, piece);
    take(piece);
  }
}

std::string SafetensorsReader::checksum(const StoredTensor& tensor) {
  Checksum sum;
  read_all(tensor, [&](std::span<const std::byte> piece) { sum.add(piece.data(), piece.size()); });
  return sum.hex();
}

void SafetensorsReader::verify() {
  for (const StoredTensor& tensor : tensors_) {
    if (tensor.checksum.empty()) continue;
    const std::string found = checksum(tensor);
    if (found == tensor.checksum) continue;
    fail(concat_text("tensor ", in_quotes(tensor.name), " is damaged: its checksum is ", found, ", expected ",
                     tensor.checksum));
  }
}

void write_safetensors(const std::string& file, std::vector<TensorToStore> tensors, const Metadata& metadata) {
  stage_safetensors(safetensors_file(file), std::move(tensors), metadata).commit();
}

WholeFile safetensors_file(const std::string& name) { return WholeFile(name); }

PendingFile stage_safetensors(const WholeFile& file, std::vector<TensorToStore> tensors, Metadata metadata) {
  const std::vector<TensorToStore> ordered = in_file_order(std::move(tensors));
  const std::string empty = std::string(checksums_begin) + std::string(digits * (ordered.size() + 1), '0');
  for (const auto& [key, text] : metadata) {
    if (key != checksums_key && !text.starts_with(checksums_begin)) continue;
    throw ValueError(concat_text("the metadata's ", in_quotes(key), " is taken for checksums"));
  }
  metadata.emplace(checksums_key, empty);
  std::vector<StoredTensor> stored;
  for (const TensorToStore& tensor : ordered) {
    stored.push_back({.name = tensor.name, .type = tensor.type, .shape = tensor.shape});
  }
  std::string header = header_text(stored, metadata);
  const std::size_t checksums = header.find(empty) + checksums_begin.size();
  return file.stage([&](std::ostream& out) {
    const std::uint64_t length = header.size();
    out.write(reinterpret_cast<const char*>(&length), sizeof length);
    out << header;
    for (std::size_t i = 0; i < ordered.size() && out; ++i) {
      header.replace(checksums + digits * (i + 1), digits, write_tensor(ordered[i], stored[i].bytes, out));
    }
    header.replace(checksums, digits, header_checksum(header, checksums));
    out.seekp(sizeof length);
    out << header;
  });
}

}  // namespace palimpsest::storage
