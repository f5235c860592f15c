#include <palimpsest/storage/safetensors.hpp>

#include <algorithm>
#include <array>
#include <bit>
#include <filesystem>
#include <limits>
#include <optional>
#include <set>
#include <utility>

#include <nlohmann/json.hpp>

#include <palimpsest/core/error.hpp>
#include <palimpsest/core/whole_file.hpp>

namespace palimpsest::storage {
namespace {

static_assert(std::endian::native == std::endian::little, "the format's numbers are little-endian");

constexpr std::uint64_t most_header_bytes = 100'000'000;
constexpr std::string_view metadata_key = "__metadata__";

struct TypeEntry {
  ElementType type;
  std::string_view name;
  std::size_t bytes;
};

constexpr std::array<TypeEntry, 13> types = {{{ElementType::F64, "F64", 8},
                                              {ElementType::F32, "F32", 4},
                                              {ElementType::F16, "F16", 2},
                                              {ElementType::BF16, "BF16", 2},
                                              {ElementType::I64, "I64", 8},
                                              {ElementType::I32, "I32", 4},
                                              {ElementType::I16, "I16", 2},
                                              {ElementType::I8, "I8", 1},
                                              {ElementType::U64, "U64", 8},
                                              {ElementType::U32, "U32", 4},
                                              {ElementType::U16, "U16", 2},
                                              {ElementType::U8, "U8", 1},
                                              {ElementType::Bool, "BOOL", 1}}};

const TypeEntry& entry_of(ElementType type) { return types[static_cast<std::size_t>(type)]; }

/// A name as messages print it, whatever bytes it has.
std::string quoted(const std::string& name) {
  return nlohmann::json(name).dump(-1, ' ', true, nlohmann::json::error_handler_t::replace);
}

/// Nullopt where the number of bytes is beyond counting.
std::optional<std::uint64_t> bytes_of(const StoredTensor& tensor) {
  std::uint64_t bytes = size_of(tensor.type);
  for (const std::int64_t extent : tensor.shape) {
    if (__builtin_mul_overflow(bytes, static_cast<std::uint64_t>(extent), &bytes)) return std::nullopt;
  }
  return bytes;
}

/// Follows the parser through the header. The first offence stops it.
class HeaderReader : public nlohmann::json_sax<nlohmann::json> {
 public:
  std::vector<StoredTensor> tensors;
  Metadata metadata;
  std::string offence;

  bool null() override { return unexpected("null"); }
  bool boolean(bool /*value*/) override { return unexpected("a truth value"); }
  bool number_integer(number_integer_t /*value*/) override { return unexpected("a negative number"); }
  bool number_float(number_float_t /*value*/, const string_t& text) override { return unexpected("the number " + text); }
  bool binary(binary_t& /*value*/) override { return unexpected("bytes"); }

  bool number_unsigned(number_unsigned_t value) override {
    if (value > static_cast<number_unsigned_t>(std::numeric_limits<std::int64_t>::max())) {
      return unexpected(concat_text("the number ", value));
    }
    if (place_ == Place::Shape) {
      tensors.back().shape.push_back(static_cast<std::int64_t>(value));
      return true;
    }
    if (place_ == Place::Offsets && offsets_.size() < 2) {
      offsets_.push_back(value);
      return true;
    }
    return unexpected(concat_text("the number ", value));
  }

  bool string(string_t& value) override {
    if (place_ == Place::Metadata) {
      metadata[key_] = value;
      return true;
    }
    if (place_ != Place::Tensor || key_ != "dtype") return unexpected("a text");
    const auto known = std::find_if(types.begin(), types.end(), [&](const TypeEntry& type) { return type.name == value; });
    if (known == types.end()) return fail(concat_text("unknown element type ", quoted(value)));
    tensors.back().type = known->type;
    return true;
  }

  bool start_object(std::size_t /*elements*/) override {
    if (place_ == Place::Outside) return go(Place::File);
    if (place_ != Place::File) return unexpected("an object");
    if (key_ == metadata_key) return go(Place::Metadata);
    tensors.push_back({.name = key_});
    fields_.clear();
    offsets_.clear();
    return go(Place::Tensor);
  }

  bool key(string_t& name) override {
    std::set<std::string>& taken = place_ == Place::File ? names_ : place_ == Place::Metadata ? texts_ : fields_;
    if (!taken.insert(name).second) return fail(concat_text(quoted(name), " stands there twice"));
    if (place_ == Place::Tensor && name != "dtype" && name != "shape" && name != "data_offsets") {
      return fail(concat_text("unknown entry ", quoted(name)));
    }
    key_ = name;
    return true;
  }

  bool end_object() override {
    if (place_ == Place::File) return go(Place::Outside);
    if (place_ == Place::Tensor) {
      if (fields_.size() < 3) return fail("dtype, shape or data_offsets is missing");
      StoredTensor& tensor = tensors.back();
      if (offsets_.size() != 2 || offsets_[0] > offsets_[1]) return fail("data_offsets are no [begin, end]");
      tensor.begin = offsets_[0];
      tensor.bytes = offsets_[1] - offsets_[0];
      const std::optional<std::uint64_t> bytes = bytes_of(tensor);
      if (!bytes) return fail("its shape has more elements than can be counted");
      if (*bytes != tensor.bytes) {
        return fail(concat_text("it has ", tensor.bytes, " bytes, expected ", *bytes, " by its type and shape"));
      }
    }
    return go(Place::File);
  }

  bool start_array(std::size_t /*elements*/) override {
    if (place_ == Place::Tensor && key_ == "shape") return go(Place::Shape);
    if (place_ == Place::Tensor && key_ == "data_offsets") return go(Place::Offsets);
    return unexpected("a list");
  }
  bool end_array() override { return go(Place::Tensor); }

  bool parse_error(std::size_t position, const std::string& /*token*/,
                   const nlohmann::detail::exception& /*error*/) override {
    return fail(concat_text("no JSON in UTF-8 at byte ", position));
  }

 private:
  enum class Place { Outside, File, Metadata, Tensor, Shape, Offsets };

  bool go(Place place) {
    place_ = place;
    return true;
  }

  bool fail(const std::string& what) {
    const bool in_tensor = place_ == Place::Tensor || place_ == Place::Shape || place_ == Place::Offsets;
    offence = in_tensor ? concat_text("tensor ", quoted(tensors.back().name), ": ", what) : what;
    return false;
  }
  bool unexpected(const std::string& what) {
    return fail(concat_text(what, " where the format has none", key_.empty() ? "" : ", at " + quoted(key_)));
  }

  Place place_ = Place::Outside;
  std::string key_;
  std::set<std::string> names_, texts_, fields_;
  std::vector<std::uint64_t> offsets_;
};

/// Sorts the tensors by their places and says what is wrong with these; empty if nothing is.
std::string check_places(std::vector<StoredTensor>& tensors, std::uint64_t data_bytes) {
  const auto place = [](const StoredTensor& tensor) { return std::pair(tensor.begin, tensor.bytes); };
  std::stable_sort(tensors.begin(), tensors.end(),
                   [&](const StoredTensor& a, const StoredTensor& b) { return place(a) < place(b); });
  std::uint64_t end = 0;
  for (const StoredTensor& tensor : tensors) {
    if (tensor.begin != end) {
      return concat_text("tensor ", quoted(tensor.name), " begins at byte ", tensor.begin, " of the data, expected ", end);
    }
    end += tensor.bytes;  // below 2^63 each: a sum that wrapped round would not be where the next begins
    if (end > data_bytes) break;
  }
  if (end == data_bytes) return "";
  return concat_text("the data have ", data_bytes, " bytes, expected ", end, " by the header");
}

}  // namespace

std::size_t size_of(ElementType type) { return entry_of(type).bytes; }
std::string_view to_string(ElementType type) { return entry_of(type).name; }

SafetensorsReader::SafetensorsReader(const std::string& file) : file_(file) {
  const auto fail = [&](const std::string& why) { throw DataError(concat_text(file_, ": ", why)); };
  std::error_code error;
  if (!std::filesystem::is_regular_file(file_, error)) fail(error ? error.message() : "there is no such file");
  const std::uint64_t size = std::filesystem::file_size(file_, error);
  in_.open(file_, std::ios::binary);
  if (error || !in_) fail("cannot be read");
  std::uint64_t header_bytes = 0;
  if (size < sizeof header_bytes) fail(concat_text("has ", size, " bytes, expected at least 8"));
  in_.read(reinterpret_cast<char*>(&header_bytes), sizeof header_bytes);
  if (!in_) fail("cannot be read");
  if (header_bytes > std::min(most_header_bytes, size - sizeof header_bytes)) {
    fail(concat_text("a header of ", header_bytes, " bytes in a file of ", size, ", expected at most ",
                     std::min(most_header_bytes, size - sizeof header_bytes)));
  }
  std::string header(header_bytes, '\0');
  if (!in_.read(header.data(), static_cast<std::streamsize>(header_bytes))) fail("cannot be read");
  // The parser takes a zero for the end of its text.
  if (header.empty() || header.front() != '{' || header.find('\0') != std::string::npos) {
    fail("the header is no JSON object");
  }
  HeaderReader reader;
  if (!nlohmann::json::sax_parse(header, &reader)) fail("the header: " + reader.offence);
  data_ = sizeof header_bytes + header_bytes;
  tensors_ = std::move(reader.tensors);
  metadata_ = std::move(reader.metadata);
  const std::string offence = check_places(tensors_, size - data_);
  if (!offence.empty()) fail(offence);
}

void SafetensorsReader::read(const StoredTensor& tensor, std::uint64_t first, std::span<std::byte> to) {
  if (first > tensor.bytes || to.size() > tensor.bytes - first) {
    throw ValueError(concat_text("bytes ", first, " to ", first + to.size(), " of tensor ", quoted(tensor.name),
                                 ", which has ", tensor.bytes));
  }
  in_.clear();
  in_.seekg(static_cast<std::streamoff>(data_ + tensor.begin + first));
  if (in_.read(reinterpret_cast<char*>(to.data()), static_cast<std::streamsize>(to.size()))) return;
  throw DataError(concat_text(file_, ": tensor ", quoted(tensor.name), " cannot be read"));
}

void write_safetensors(const std::string& file, std::vector<TensorToStore> tensors, const Metadata& metadata) {
  const auto rank = [](const TensorToStore& tensor) {
    return std::pair(std::numeric_limits<std::size_t>::max() - size_of(tensor.type), std::string_view(tensor.name));
  };
  std::sort(tensors.begin(), tensors.end(),
            [&](const TensorToStore& a, const TensorToStore& b) { return rank(a) < rank(b); });
  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  if (!metadata.empty()) header[metadata_key] = metadata;
  std::uint64_t end = 0;
  for (const TensorToStore& tensor : tensors) {
    const StoredTensor stored{tensor.name, tensor.type, tensor.shape};
    const std::uint64_t begin = end;
    end += bytes_of(stored).value();
    if (header.contains(tensor.name)) throw ValueError(concat_text("two tensors named ", quoted(tensor.name)));
    header[tensor.name] = {{"dtype", to_string(tensor.type)}, {"shape", tensor.shape}, {"data_offsets", {begin, end}}};
  }
  std::string text = header.dump();
  text.append((8 - text.size() % 8) % 8, ' ');
  WholeFile(file).write([&](std::ostream& out) {
    const std::uint64_t length = text.size();
    out.write(reinterpret_cast<const char*>(&length), sizeof length);
    out << text;
    for (const TensorToStore& tensor : tensors) tensor.write(out);
  });
}

}  // namespace palimpsest::storage
