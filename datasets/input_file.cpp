#include <palimpsest/datasets/input_file.hpp>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <system_error>
#include <utility>

#include <palimpsest/core/error.hpp>

namespace palimpsest::datasets {

bool is_missing(const std::filesystem::path& path) {
  std::error_code error;
  return std::filesystem::status(path, error).type() == std::filesystem::file_type::not_found;
}

RawFile::RawFile(std::filesystem::path path) : path_(std::move(path)) {
  if (is_missing(path_)) throw DataError(concat_text(path_, ": no such file"));
  std::error_code error;
  const std::filesystem::file_status status = std::filesystem::status(path_, error);
  if (std::filesystem::status_known(status) && !std::filesystem::is_regular_file(status)) {
    throw DataError(concat_text(path_, ": is not a regular file"));
  }
  file_.reset(std::fopen(path_.c_str(), "rb"));
  if (file_ == nullptr) throw DataError(concat_text(path_, ": cannot be opened: ", std::strerror(errno)));
  size_ = std::filesystem::file_size(path_, error);
  if (error) throw DataError(concat_text(path_, ": its size cannot be read: ", error.message()));
}

std::size_t RawFile::read(std::span<std::uint8_t> target) {
  const std::size_t got = std::fread(target.data(), 1, target.size(), file_.get());
  if (got < target.size() && std::ferror(file_.get()) != 0) {
    throw DataError(concat_text(path_, ": at byte ", offset_ + got, ": cannot be read: ", std::strerror(errno)));
  }
  offset_ += got;
  return got;
}

void RawFile::rewind() {
  std::rewind(file_.get());
  offset_ = 0;
}

InputFile::InputFile(std::filesystem::path path) : raw_(std::move(path)) {
  std::array<std::uint8_t, 2> start{};
  if (raw_.read(start) == 0) fail(0, "the file is empty");
  raw_.rewind();
  constexpr std::array<std::uint8_t, 2> gzip_magic = {0x1F, 0x8B};
  if (start == gzip_magic) gunzip_ = std::make_unique<Gunzip>(raw_);
}

std::size_t InputFile::read(std::span<std::uint8_t> target) {
  return gunzip_ != nullptr ? gunzip_->read(target) : raw_.read(target);
}

std::uint32_t InputFile::read_big_endian(std::string_view what) {
  std::array<std::uint8_t, 4> bytes{};
  const std::size_t got = read(bytes);
  if (got < bytes.size()) wrong_length(bytes.size(), got, what);
  offset_ += bytes.size();
  std::uint32_t value = 0;
  for (const std::uint8_t byte : bytes) value = value << 8 | byte;
  return value;
}

std::vector<std::uint8_t> InputFile::read_rest(std::uint64_t bytes, std::string_view what) {
  const bool plain = gunzip_ == nullptr;
  if (plain && raw_.size() - offset_ != bytes) wrong_length(bytes, raw_.size() - offset_, what);
  constexpr std::uint64_t first_piece = std::uint64_t{1} << 20;
  std::vector<std::uint8_t> data;
  while (data.size() < bytes) {
    const std::size_t have = data.size();
    data.resize(plain ? bytes : std::min(bytes, std::max(first_piece, std::uint64_t{2} * have)));
    const std::size_t got = read(std::span(data).subspan(have));
    if (have + got < data.size()) wrong_length(bytes, have + got, what);
  }
  std::uint8_t extra = 0;
  if (read({&extra, 1}) != 0) wrong_length(bytes, bytes + 1, what);
  offset_ += bytes;
  return data;
}

void InputFile::fail(std::uint64_t offset, std::string_view problem) const {
  throw DataError(concat_text(raw_.path(), ": at byte ", offset, ": ", problem));
}

void InputFile::wrong_length(std::uint64_t expected, std::uint64_t found, std::string_view what) const {
  const bool short_of = found < expected;
  fail(offset_ + std::min(expected, found),
       concat_text(short_of ? "the data end" : "the data go on", ", expected ", expected, " bytes from byte ", offset_,
                   " (", what, "), found ", short_of ? "" : "at least ", found));
}

}  // namespace palimpsest::datasets
