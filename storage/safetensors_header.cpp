#include <palimpsest/storage/safetensors_header.hpp>

#include <algorithm>
#include <limits>
#include <optional>
#include <set>
#include <utility>

#include <nlohmann/json.hpp>

#include <palimpsest/core/error.hpp>
#include <palimpsest/storage/in_quotes.hpp>

namespace palimpsest::storage {
namespace {

/// Nullopt where the number of bytes is beyond counting.
std::optional<std::uint64_t> bytes_of(const StoredTensor& tensor) {
  std::uint64_t bytes = size_of(tensor.type);
  for (const std::int64_t extent : tensor.shape) {
    if (extent < 0) return std::nullopt;
    if (__builtin_mul_overflow(bytes, static_cast<std::uint64_t>(extent), &bytes)) return std::nullopt;
  }
  return bytes;
}

/// Follows the parser through the header. The first offence stops it.
class HeaderReader : public nlohmann::json_sax<nlohmann::json> {
 public:
  Header header;

  bool null() override { return unexpected("null"); }
  bool boolean(bool /*value*/) override { return unexpected("a truth value"); }
  bool number_integer(number_integer_t /*value*/) override { return unexpected("a negative number"); }
  bool number_float(number_float_t /*value*/, const string_t& text) override {
    return unexpected("the number " + text);
  }
  bool binary(binary_t& /*value*/) override { return unexpected("bytes"); }

  bool number_unsigned(number_unsigned_t value) override {
    if (value > static_cast<number_unsigned_t>(std::numeric_limits<std::int64_t>::max())) {
      return unexpected(concat_text("the number ", value));
    }
    if (place_ == Place::Shape) {
      header.tensors.back().shape.push_back(static_cast<std::int64_t>(value));
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
      header.metadata[key_] = value;
      return true;
    }
    if (place_ != Place::Tensor || key_ != "dtype") return unexpected("a text");
    const std::optional<ElementType> known = parse_element_type(value);
    if (!known) return fail(concat_text("unknown element type ", in_quotes(value)));
    header.tensors.back().type = *known;
    return true;
  }

  bool start_object(std::size_t /*elements*/) override {
    if (place_ == Place::Outside) return go(Place::File);
    if (place_ != Place::File) return unexpected("an object");
    if (key_ == metadata_key) return go(Place::Metadata);
    header.tensors.push_back({.name = key_});
    fields_.clear();
    offsets_.clear();
    return go(Place::Tensor);
  }

  bool key(string_t& name) override {
    std::set<std::string>& taken = place_ == Place::File ? names_ : place_ == Place::Metadata ? texts_ : fields_;
    if (!taken.insert(name).second) return fail(concat_text(in_quotes(name), " stands there twice"));
    if (place_ == Place::Tensor && name != "dtype" && name != "shape" && name != "data_offsets") {
      return fail(concat_text("unknown entry ", in_quotes(name)));
    }
    key_ = name;
    return true;
  }

  bool end_object() override {
    if (place_ == Place::File) return go(Place::Outside);
    if (place_ == Place::Tensor) {
      if (fields_.size() < 3) return fail("dtype, shape or data_offsets is missing");
      StoredTensor& tensor = header.tensors.back();
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
    header.offence = in_tensor ? concat_text("tensor ", in_quotes(header.tensors.back().name), ": ", what) : what;
    return false;
  }
  bool unexpected(const std::string& what) {
    return fail(concat_text(what, " where the format has none", key_.empty() ? "" : ", at " + in_quotes(key_)));
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
      return concat_text("tensor ", in_quotes(tensor.name), " begins at byte ", tensor.begin, " of the data, expected ",
                         end);
    }
    end += tensor.bytes;  // below 2^63 each: a sum that wrapped round would not be where the next begins
    if (end > data_bytes) break;
  }
  if (end == data_bytes) return "";
  return concat_text("the data have ", data_bytes, " bytes, expected ", end, " by the header");
}

/// The JSON of a text or of metadata.
template <class T>
std::string json_of(const T& value) {
  try {
    return nlohmann::json(value).dump();
  } catch (const nlohmann::json::exception&) {
    throw ValueError("a name or a text of the metadata is not in UTF-8");
  }
}

}  // namespace

Header parse_header(const std::string& text, std::uint64_t data_bytes) {
  HeaderReader reader;
  // The parser takes a zero for the end of its text.
  if (text.empty() || text.front() != '{' || text.find('\0') != std::string::npos) {
    reader.header.offence = "no JSON object";
  } else if (nlohmann::json::sax_parse(text, &reader)) {
    reader.header.offence = check_places(reader.header.tensors, data_bytes);
  }
  return std::move(reader.header);
}

std::string header_text(std::vector<StoredTensor>& tensors, const Metadata& metadata) {
  std::string text = "{" + json_of(std::string(metadata_key)) + ":" + json_of(metadata);
  std::set<std::string_view> names = {metadata_key};
  std::uint64_t end = 0;
  for (StoredTensor& tensor : tensors) {
    if (!names.insert(tensor.name).second) throw ValueError(concat_text("two tensors named ", in_quotes(tensor.name)));
    tensor.begin = end;
    const std::optional<std::uint64_t> bytes = bytes_of(tensor);
    if (!bytes || __builtin_add_overflow(end, *bytes, &end)) {
      throw ValueError(concat_text("tensor ", in_quotes(tensor.name), " has more elements than can be counted"));
    }
    tensor.bytes = *bytes;
    text += concat_text(',', json_of(tensor.name), R"(:{"dtype":")", to_string(tensor.type), R"(","shape":[)",
                        join(tensor.shape, ","), R"(],"data_offsets":[)", tensor.begin, ',', end, "]}");
  }
  text += '}';
  text.append((8 - text.size() % 8) % 8, ' ');
  return text;
}

}  // namespace palimpsest::storage
