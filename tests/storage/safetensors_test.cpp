// The format of weights: files as it allows them, and files as nobody should write them.

#include <palimpsest/storage/safetensors.hpp>

#include <gtest/gtest.h>

#include <cstring>
#include <fstream>
#include <span>
#include <sstream>
#include <string>
#include <vector>

#include <palimpsest/core/error.hpp>
#include "tests/support/temporary_folder.hpp"

namespace palimpsest::storage {
namespace {

std::string length_of(std::uint64_t bytes) {
  std::string text(8, '\0');
  std::memcpy(text.data(), &bytes, 8);
  return text;
}

/// A file of this header, followed by so many bytes of data: 0, 1, 2 ...
std::string file_of(const std::string& header, std::size_t data) {
  std::string text = length_of(header.size()) + header;
  for (std::size_t i = 0; i < data; ++i) text += static_cast<char>(i);
  return text;
}

std::string tensor(const std::string& name, const std::string& dtype, const std::string& shape, std::uint64_t begin,
                   std::uint64_t end) {
  std::ostringstream out;
  out << '"' << name << R"(":{"dtype":")" << dtype << R"(","shape":)" << shape << R"(,"data_offsets":[)" << begin << ','
      << end << "]}";
  return out.str();
}

/// A file that must be refused, in a message with these words.
struct Forbidden {
  const char* what;
  std::string bytes;
  const char* words;
};

class Safetensors : public testing::InTemporaryFolder {
 protected:
  using InTemporaryFolder::write;
  std::string write(const std::string& bytes) const { return write("weights.safetensors", bytes); }
  SafetensorsReader read(const std::string& bytes) const { return SafetensorsReader(write(bytes)); }

  /// The reader's message, behind the file's name, about a file that it must refuse.
  std::string refusal(const std::string& bytes) const {
    const std::string path = write(bytes);
    try {
      const SafetensorsReader reader(path);
    } catch (const DataError& error) {
      const std::string text = error.what();
      EXPECT_TRUE(text.starts_with(path + ": ")) << text;
      EXPECT_EQ(text.find('\n'), std::string::npos);
      return text.substr(std::min(text.size(), path.size() + 2));
    }
    return "";
  }

  void expect_refused(const std::vector<Forbidden>& cases) const {
    for (const auto& [what, bytes, words] : cases) {
      const std::string said = refusal(bytes);
      EXPECT_NE(said.find(words), std::string::npos) << what << ": " << said;
    }
  }
};

TEST_F(Safetensors, WhatTheFormatAllowsIsRead) {
  const std::string two = "{" + tensor("b", "F32", "[2]", 8, 16) + "," + tensor("a", "U8", "[2,4]", 0, 8) + "}";
  SafetensorsReader reader = read(file_of(two, 16));
  ASSERT_EQ(reader.tensors().size(), 2U);
  EXPECT_EQ(reader.tensors()[0].name, "a");  // by place
  EXPECT_EQ(reader.tensors()[0].shape, (std::vector<std::int64_t>{2, 4}));
  EXPECT_EQ(reader.tensors()[1].type, ElementType::F32);
  std::array<std::byte, 3> bytes{};
  reader.read(reader.tensors()[1], 5, bytes);
  EXPECT_EQ(bytes[0], std::byte{13});
  EXPECT_THROW(reader.read(reader.tensors()[1], 6, bytes), ValueError);

  EXPECT_EQ(read(file_of("{}", 0)).tensors().size(), 0U);
  EXPECT_EQ(read(file_of("{}      \n", 0)).tensors().size(), 0U);  // padding
  EXPECT_EQ(read(file_of("{" + tensor("scalar", "F64", "[]", 0, 8) + "}", 8)).tensors()[0].shape.size(), 0U);
  EXPECT_EQ(read(file_of("{" + tensor("none", "F32", "[3,0,5]", 0, 0) + "}", 0)).tensors()[0].bytes, 0U);
  EXPECT_EQ(read(file_of("{" + tensor("six", "I8", "[1,2,1,2,1,2]", 0, 8) + "}", 8)).tensors()[0].shape.size(), 6U);
  // Empty tensors may lie between, before and behind others.
  const std::string among = "{" + tensor("a", "F32", "[0]", 0, 0) + "," + tensor("b", "U8", "[4]", 0, 4) + "," +
                            tensor("c", "F32", "[0]", 4, 4) + "}";
  EXPECT_EQ(read(file_of(among, 4)).tensors().size(), 3U);
  const std::string said = R"({"__metadata__":{"format":"pt","é":"\u00e9 \"quoted\""}})";
  EXPECT_EQ(read(file_of(said, 0)).metadata().at("é"), "é \"quoted\"");
}

TEST_F(Safetensors, HeadersThatAreNone) {
  const std::string good = tensor("a", "F32", "[2]", 0, 8);
  expect_refused({
      {"empty", "", "has 0 bytes, expected at least 8"},
      {"seven bytes", "1234567", "has 7 bytes, expected at least 8"},
      {"no header", length_of(0), "the header: no JSON object"},
      {"longer header than file", length_of(3) + "{}", "a header of 3 bytes in a file of 10, expected at most 2"},
      {"header of 2^63", length_of(std::uint64_t{1} << 63) + "{}", "expected at most 2"},
      {"header of 2^64 - 1", length_of(~std::uint64_t{0}) + "{}", "expected at most 2"},
      {"header of 2^64 - 8", length_of(~std::uint64_t{7}) + "{}", "expected at most 2"},
      {"white space in front", file_of(" {}", 0), "no JSON object"},
      {"byte order mark", file_of("\xEF\xBB\xBF{}", 0), "no JSON object"},
      {"a list", file_of("[]", 0), "no JSON object"},
      {"a text", file_of("\"a\"", 0), "no JSON object"},
      {"unfinished", file_of("{\"a\":", 0), "no JSON in UTF-8 at byte"},
      {"a comma too many", file_of("{" + good + ",}", 8), "no JSON in UTF-8"},
      {"a comment", file_of("{/**/}", 0), "no JSON in UTF-8"},
      {"two objects", file_of("{}{}", 0), "no JSON in UTF-8"},
      {"zeros as padding", file_of(std::string("{}\0\0", 4), 0), "no JSON object"},
      {"a zero inside", file_of(std::string("{\"a\0\":1}", 8), 0), "no JSON object"},
      {"not UTF-8", file_of("{\"\xFF\":{}}", 0), "no JSON in UTF-8"},
      {"overlong UTF-8", file_of("{\"\xC0\xAF\":{}}", 0), "no JSON in UTF-8"},
      {"half a surrogate", file_of(R"({"\ud800":{}})", 0), "no JSON in UTF-8"},
      {"a raw new line in a name", file_of("{\"a\nb\":{}}", 0), "no JSON in UTF-8"},
  });
}

TEST_F(Safetensors, FilesOfOtherKinds) {
  const std::string zip = std::string("PK\3\4\0\0\10\10\0\0archive/data.pkl", 26);
  expect_refused({
      {"one of PyTorch's", zip, "is no safetensors file; it looks like one of PyTorch's own"},
      {"a page", "<html>not weights</html>", "is no safetensors file"},
      {"a short text", "weights", "is no safetensors file: has 7 bytes"},
      {"a download that was cut short", length_of(20000) + "{\"a\":", "a header of 20000 bytes in a file of 13"},
  });
  EXPECT_EQ(refusal("<html>not weights</html>").find("PyTorch"), std::string::npos);
  EXPECT_EQ(refusal(zip).find("bytes"), std::string::npos);
}

TEST_F(Safetensors, EntriesThatTheFormatDoesNotKnow) {
  const std::string good = tensor("a", "F32", "[2]", 0, 8);
  expect_refused({
      {"a tensor that is a number", file_of("{\"a\":1}", 0), "the number 1 where the format has none, at \"a\""},
      {"a tensor that is a text", file_of("{\"a\":\"F32\"}", 0), "a text where the format has none, at \"a\""},
      {"a tensor that is null", file_of("{\"a\":null}", 0), "null where the format has none"},
      {"a tensor that is a list", file_of("{\"a\":[]}", 0), "a list where the format has none"},
      {"no type", file_of(R"({"a":{"shape":[2],"data_offsets":[0,8]}})", 8),
       "tensor \"a\": dtype, shape or data_offsets"},
      {"no shape", file_of(R"({"a":{"dtype":"F32","data_offsets":[0,8]}})", 8), "is missing"},
      {"no place", file_of(R"({"a":{"dtype":"F32","shape":[2]}})", 8), "is missing"},
      {"an empty tensor entry", file_of(R"({"a":{}})", 0), "is missing"},
      {"another entry", file_of(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8],"x":1}})", 8),
       "unknown entry \"x\""},
      {"an unknown type", file_of("{" + tensor("a", "F8", "[2]", 0, 2) + "}", 2), "unknown element type \"F8\""},
      {"a type in small letters", file_of("{" + tensor("a", "f32", "[2]", 0, 8) + "}", 8), "unknown element type"},
      {"two of one name", file_of("{" + good + "," + tensor("a", "F32", "[2]", 8, 16) + "}", 16),
       "\"a\" stands there twice"},
      {"one entry twice", file_of(R"({"a":{"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]}})", 8),
       "\"dtype\" stands there twice"},
      {"metadata twice", file_of(R"({"__metadata__":{},"__metadata__":{}})", 0), "\"__metadata__\" stands there twice"},
      {"metadata that are no texts", file_of(R"({"__metadata__":{"a":1}})", 0), "the number 1 where"},
      {"metadata in metadata", file_of(R"({"__metadata__":{"a":{}}})", 0), "an object where"},
      {"one text twice", file_of(R"({"__metadata__":{"a":"b","a":"c"}})", 0), "\"a\" stands there twice"},
  });
  // Depth costs no stack.
  EXPECT_NE(refusal(file_of("{\"a\":" + std::string(1 << 20, '['), 0)), "");
}

TEST_F(Safetensors, ShapesThatAreNone) {
  const std::string huge = "9223372036854775808";
  expect_refused({
      {"a negative extent", file_of("{" + tensor("a", "F32", "[-2]", 0, 8) + "}", 8), "a negative number where"},
      {"a fraction of an extent", file_of("{" + tensor("a", "F32", "[2.0]", 0, 8) + "}", 8), "the number 2.0 where"},
      {"an extent as a power", file_of("{" + tensor("a", "F32", "[2e0]", 0, 8) + "}", 8), "the number 2e0 where"},
      {"an extent beyond 64 bits", file_of("{" + tensor("a", "F32", "[" + huge + huge + "]", 0, 8) + "}", 8),
       "where the format has none"},
      {"an extent beyond 63 bits", file_of("{" + tensor("a", "F32", "[" + huge + "]", 0, 8) + "}", 8),
       "where the format has none"},
      {"a list in a shape", file_of("{" + tensor("a", "F32", "[[2]]", 0, 8) + "}", 8), "a list where"},
      {"a product beyond 64 bits", file_of("{" + tensor("a", "F32", "[4294967296,4294967296]", 0, 8) + "}", 8),
       "more elements than can be counted"},
      {"a product that wraps round to what is there",
       file_of("{" + tensor("a", "U8", "[4294967296,4294967296,1]", 0, 0) + "}", 0),
       "more elements than can be counted"},
  });
}

TEST_F(Safetensors, PlacesThatDoNotFit) {
  const std::string good = tensor("a", "F32", "[2]", 0, 8);
  expect_refused({
      {"fewer bytes than the shape", file_of("{" + tensor("a", "F32", "[3]", 0, 8) + "}", 8),
       "it has 8 bytes, expected 12"},
      {"more bytes than the shape", file_of("{" + tensor("a", "F32", "[1]", 0, 8) + "}", 8),
       "it has 8 bytes, expected 4"},
      {"an end before the begin", file_of("{" + tensor("a", "F32", "[2]", 8, 0) + "}", 8),
       "data_offsets are no [begin, end]"},
      {"one offset", file_of(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[8]}})", 8), "data_offsets are no"},
      {"three offsets", file_of(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8,8]}})", 8),
       "the number 8 where"},
      {"a hole at the begin", file_of("{" + tensor("a", "F32", "[2]", 4, 12) + "}", 12),
       "begins at byte 4 of the data, expected 0"},
      {"a hole between", file_of("{" + good + "," + tensor("b", "U8", "[2]", 9, 11) + "}", 11),
       "tensor \"b\" begins at byte 9 of the data, expected 8"},
      {"an overlap", file_of("{" + good + "," + tensor("b", "U8", "[2]", 7, 9) + "}", 9),
       "tensor \"b\" begins at byte 7"},
      {"two in one place", file_of("{" + good + "," + tensor("b", "F32", "[2]", 0, 8) + "}", 8),
       "begins at byte 0 of the data, expected 8"},
      {"truncated data", file_of("{" + good + "}", 7), "the data have 7 bytes, expected 8"},
      {"data behind the last", file_of("{" + good + "}", 9), "the data have 9 bytes, expected 8"},
      {"data of no tensor", file_of("{}", 1), "the data have 1 bytes, expected 0"},
      {"offsets whose sum wraps round",
       file_of("{" + tensor("a", "U8", "[9223372036854775807]", 0, 9223372036854775807U) + "," +
                   tensor("b", "U8", "[9223372036854775807]", 9223372036854775807U, 18446744073709551614U) + "}",
               0),
       "where the format has none"},
  });
}

TEST_F(Safetensors, AFileThatIsNoneIsRefused) {
  EXPECT_THROW(SafetensorsReader(folder_ / "missing"), DataError);
  EXPECT_THROW(SafetensorsReader(folder_.string()), DataError);
}

TEST_F(Safetensors, EveryTruncationIsRefused) {
  const std::string whole = file_of("{" + tensor("a", "F32", "[2]", 0, 8) + "}", 8);
  for (std::size_t bytes = 0; bytes < whole.size(); ++bytes) {
    EXPECT_NE(refusal(whole.substr(0, bytes)), "") << bytes;
  }
  EXPECT_EQ(refusal(whole), "");
}

TEST_F(Safetensors, WhatIsWrittenIsReadBack) {
  const std::string path = folder_ / "weights.safetensors";
  const auto bytes = [](std::string text) { return [=](const PutBytes& put) { put(std::as_bytes(std::span(text))); }; };
  write_safetensors(path,
                    {{"narrow", ElementType::U8, {3}, bytes("abc")},
                     {"wide", ElementType::F64, {}, bytes("12345678")},
                     {"layer10", ElementType::F32, {1, 1}, bytes("ten.")},
                     {"layer2", ElementType::F32, {0}, bytes("")}},
                    {{"format", "pt"}});
  SafetensorsReader reader(path);
  std::vector<std::string> names;
  for (const StoredTensor& tensor : reader.tensors()) names.push_back(tensor.name);
  EXPECT_EQ(names, (std::vector<std::string>{"wide", "layer10", "layer2", "narrow"}));
  EXPECT_EQ(reader.metadata().at("format"), "pt");
  std::array<std::byte, 4> ten{};
  reader.read(reader.tensors()[1], 0, ten);
  EXPECT_EQ(std::memcmp(ten.data(), "ten.", 4), 0);
  std::ifstream in(path, std::ios::binary);
  std::uint64_t header = 0;
  in.read(reinterpret_cast<char*>(&header), 8);
  EXPECT_EQ(header % 8, 0U);

  EXPECT_THROW(
      write_safetensors(path, {{"a", ElementType::U8, {0}, bytes("")}, {"a", ElementType::U8, {0}, bytes("")}}),
      ValueError);
  EXPECT_THROW(write_safetensors(folder_ / "missing" / "file", {}), Error);
  const auto fails = [](const PutBytes&) { throw DataError("the bytes are gone"); };
  EXPECT_THROW(write_safetensors(path, {{"a", ElementType::U8, {1}, fails}}), DataError);
  EXPECT_EQ(SafetensorsReader(path).tensors().size(), 4U);  // as it was
  EXPECT_EQ(files(), 1);
}

TEST_F(Safetensors, AWriterThatGoesWrongIsTold) {
  const auto bytes = [](const PutBytes& put) { put(std::vector<std::byte>(4)); };
  const auto said = [&](std::vector<TensorToStore> tensors, const Metadata& metadata = {}) -> std::string {
    try {
      write_safetensors(path("w"), std::move(tensors), metadata);
    } catch (const ValueError& error) {
      return error.what();
    }
    return "";
  };
  EXPECT_EQ(said({{"a", ElementType::F32, {2}, bytes}}), "tensor \"a\" wrote 4 bytes, expected 8");
  EXPECT_EQ(said({{"a", ElementType::U8, {3}, bytes}}), "tensor \"a\" wrote 4 bytes, expected 3");
  const std::int64_t many = std::int64_t{1} << 40;
  EXPECT_NE(said({{"a", ElementType::F32, {many, many}, bytes}}).find("more elements than can be counted"),
            std::string::npos);
  EXPECT_NE(said({{"a", ElementType::F32, {-1}, bytes}}), "");
  EXPECT_NE(said({{"__metadata__", ElementType::F32, {1}, bytes}}), "");
  EXPECT_NE(said({{"\xFF", ElementType::F32, {1}, bytes}}).find("not in UTF-8"), std::string::npos);
  EXPECT_NE(said({}, {{"palimpsest.checksums", "mine"}}).find("taken for checksums"), std::string::npos);
  EXPECT_NE(said({}, {{"mine", "palimpsest-xxh3-64:"}}).find("taken for checksums"), std::string::npos);
  EXPECT_EQ(files(), 0);
}

TEST_F(Safetensors, ChecksumsAreThoseOfXxh3) {
  const auto nothing = [](const PutBytes&) {};
  const auto letters = [](const PutBytes& put) {
    put(std::as_bytes(std::span("ab", 2))), put(std::as_bytes(std::span("c", 1)));
  };
  write_safetensors(path("w"), {{"abc", ElementType::U8, {3}, letters}, {"none", ElementType::U8, {0}, nothing}});
  SafetensorsReader reader(path("w"));
  ASSERT_TRUE(reader.has_checksums());
  ASSERT_EQ(reader.tensors().size(), 2U);
  EXPECT_EQ(reader.metadata(), Metadata());  // where the checksums are, too
  // The empty text's is xxHash's published value; xxh3's of "abc" as `xxhsum -H3` prints it.
  EXPECT_EQ(reader.tensors()[1].checksum, "2d06800538d394c2");
  EXPECT_EQ(reader.tensors()[0].checksum, "78af5f94892f3950");
  for (const StoredTensor& tensor : reader.tensors()) EXPECT_EQ(reader.checksum(tensor), tensor.checksum);
  reader.verify();
}

TEST_F(Safetensors, ChecksumsOfOtherTensorsAreRefused) {
  const std::string key = R"({"__metadata__":{"palimpsest.checksums":"palimpsest-xxh3-64:)";
  EXPECT_EQ(refusal(file_of(key + std::string(16, '0') + "\"}}", 0)), "the header is damaged");
  EXPECT_EQ(refusal(file_of(key + "0\"}}", 0)), "the header is damaged");
  EXPECT_EQ(refusal(file_of(R"({"__metadata__":{"palimpsest.checksums":"0"}})", 0)), "the header is damaged");
  EXPECT_EQ(refusal(file_of(R"({"__metadata__":{"x":"palimpsest-xxh3-64:"}})", 0)), "the header is damaged");
}

}  // namespace
}  // namespace palimpsest::storage
