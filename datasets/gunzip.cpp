#include <palimpsest/datasets/gunzip.hpp>

#ifdef PALIMPSEST_HAS_ZLIB
#include <zlib.h>
#endif

#include <algorithm>
#include <limits>
#include <vector>

#include <palimpsest/core/error.hpp>
#include <palimpsest/datasets/input_file.hpp>

namespace palimpsest::datasets {

#ifdef PALIMPSEST_HAS_ZLIB

struct Gunzip::State {
  RawFile& file;
  std::vector<std::uint8_t> input = std::vector<std::uint8_t>(std::size_t{64} << 10);
  z_stream stream{};
  bool between_members = false;

  explicit State(RawFile& source) : file(source) {
    constexpr int gzip_only = 16 + MAX_WBITS;
    if (inflateInit2(&stream, gzip_only) != Z_OK) throw DataError("zlib could not be started");
  }
  ~State() { inflateEnd(&stream); }
  State(const State&) = delete;
  State& operator=(const State&) = delete;

  /// The position of zlib in the compressed file.
  std::uint64_t offset() const { return file.offset() - stream.avail_in; }

  /// False at the end of the compressed file.
  bool refill() {
    if (stream.avail_in == 0) {
      stream.next_in = input.data();
      stream.avail_in = static_cast<uInt>(file.read(input));
    }
    return stream.avail_in != 0;
  }

  void inflate_some() {
    if (between_members) inflateReset(&stream);
    const int status = inflate(&stream, Z_NO_FLUSH);
    between_members = status == Z_STREAM_END;
    if (status == Z_OK || status == Z_STREAM_END) return;
    throw DataError(concat_text(file.path(), ": corrupt gzip data at compressed byte ", offset(), ": ",
                                stream.msg != nullptr ? stream.msg : zError(status)));
  }
};

std::size_t Gunzip::read(std::span<std::uint8_t> target) {
  z_stream& stream = state_->stream;
  std::size_t done = 0;
  while (done < target.size()) {
    if (!state_->refill()) {
      if (state_->between_members) break;
      throw DataError(concat_text(state_->file.path(), ": truncated gzip data: the file ends at compressed byte ",
                                  state_->offset(), ", expected more of the stream"));
    }
    const std::size_t room = std::min<std::size_t>(target.size() - done, std::numeric_limits<uInt>::max());
    stream.next_out = target.data() + done;
    stream.avail_out = static_cast<uInt>(room);
    state_->inflate_some();
    done += room - stream.avail_out;
  }
  return done;
}

#else

struct Gunzip::State {
  explicit State(RawFile& file) {
    throw DataError(concat_text(file.path(), ": is gzipped, and this build has no zlib: unpack it with gunzip first"));
  }
};

std::size_t Gunzip::read(std::span<std::uint8_t>) { return 0; }

#endif

Gunzip::Gunzip(RawFile& file) : state_(std::make_unique<State>(file)) {}

Gunzip::~Gunzip() = default;

}  // namespace palimpsest::datasets
