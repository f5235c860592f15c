// Lists what is in a file of weights or a checkpoint, or compares two of them.
//
//   palimpsest_inspect FILE          every tensor: type, shape, bytes, checksum, name; the metadata
//   palimpsest_inspect FILE OTHER    where the two differ, and by how much
//
// Exit status: 0 the file is whole, or the two have the same tensors, bit for bit; 1 they differ; 2 trouble.

#include <algorithm>
#include <cctype>
#include <cmath>
#include <iomanip>
#include <iostream>
#include <map>
#include <string>
#include <vector>

#include <palimpsest/core/error.hpp>
#include <palimpsest/storage/safetensors.hpp>

using namespace palimpsest;
using storage::SafetensorsReader;
using storage::StoredTensor;

namespace {

enum ExitStatus { Same = 0, Differ = 1, Trouble = 2 };

/// A text of a file on one line: nothing in it moves the cursor.
std::string printable(std::string text) {
  std::replace_if(
      text.begin(), text.end(), [](char c) { return std::iscntrl(static_cast<unsigned char>(c)) != 0; }, '?');
  return text;
}

std::string form_of(const StoredTensor& tensor) {
  return concat_text(storage::to_string(tensor.type), " (", join(tensor.shape), ")");
}

void list(SafetensorsReader& reader) {
  std::size_t width = 0;
  std::uint64_t bytes = 0;
  for (const StoredTensor& tensor : reader.tensors()) {
    width = std::max(width, form_of(tensor).size());
    bytes += tensor.bytes;
  }
  for (const StoredTensor& tensor : reader.tensors()) {
    std::cout << std::left << std::setw(static_cast<int>(width)) << form_of(tensor) << std::right << std::setw(12)
              << tensor.bytes << "  " << reader.checksum(tensor) << "  " << printable(tensor.name) << '\n';
  }
  for (const auto& [key, text] : reader.metadata())
    std::cout << "metadata " << printable(key) << ": " << printable(text) << '\n';
  reader.verify();
  std::cout << reader.tensors().size() << " tensors, " << bytes << " bytes, "
            << (reader.has_checksums() ? "all checksums right" : "no checksums in the file") << '\n';
}

/// The largest difference of two tensors' elements; the count of those that are a number in one alone.
struct Difference {
  double largest = 0;
  std::uint64_t no_number = 0;
  bool same_bits = true;
};

Difference compare(SafetensorsReader& a, const StoredTensor& in_a, SafetensorsReader& b, const StoredTensor& in_b) {
  Difference difference;
  const std::size_t width = storage::size_of(in_a.type);
  std::uint64_t first = 0;
  std::vector<std::byte> other;
  a.read_all(in_a, [&](std::span<const std::byte> piece) {
    other.resize(piece.size());
    b.read(in_b, first, other);
    first += piece.size();
    if (std::equal(piece.begin(), piece.end(), other.begin())) return;
    difference.same_bits = false;
    for (std::size_t at = 0; at < piece.size(); at += width) {
      const double x = storage::number_at(in_a.type, piece.data() + at), y = storage::number_at(in_b.type, &other[at]);
      if (std::isnan(x) != std::isnan(y)) ++difference.no_number;
      if (x != y && !std::isnan(x) && !std::isnan(y))
        difference.largest = std::max(difference.largest, std::abs(x - y));
    }
  });
  return difference;
}

std::string describe(const Difference& difference) {
  std::string text = concat_text("largest difference ", difference.largest);
  if (difference.no_number > 0) text += concat_text(", ", difference.no_number, " are a number in one alone");
  return text;
}

/// The comparison of two files: a line for each thing that is not the same in both.
class Comparison {
 public:
  Comparison(SafetensorsReader& a, SafetensorsReader& b) : a_(a), b_(b) {}

  /// Returns the exit status.
  int run() {
    std::map<std::string, const StoredTensor*> others;
    for (const StoredTensor& tensor : b_.tensors()) others.emplace(tensor.name, &tensor);
    for (const StoredTensor& tensor : a_.tensors()) {
      const auto other = others.extract(tensor.name);
      if (other.empty()) {
        tell(tensor.name, "only in " + a_.file());
      } else {
        compare_tensors(tensor, *other.mapped());
      }
    }
    for (const auto& [name, tensor] : others) tell(name, "only in " + b_.file());
    compare_metadata();
    std::cout << same_ << " tensors have the same bits, " << different_ << " differences\n";
    return different_ == 0 ? Same : Differ;
  }

 private:
  SafetensorsReader& a_;
  SafetensorsReader& b_;
  std::size_t same_ = 0, different_ = 0;

  void tell(const std::string& name, const std::string& what) {
    std::cout << printable(name) << ": " << what << '\n';
    ++different_;
  }

  void compare_tensors(const StoredTensor& tensor, const StoredTensor& other) {
    if (tensor.type != other.type || tensor.shape != other.shape) {
      return tell(tensor.name, form_of(tensor) + " and " + form_of(other));
    }
    const Difference difference = compare(a_, tensor, b_, other);
    if (!difference.same_bits) return tell(tensor.name, describe(difference));
    ++same_;
  }

  void compare_metadata() {
    storage::Metadata others = b_.metadata();
    for (const auto& [key, text] : a_.metadata()) {
      const auto other = others.extract(key);
      if (other.empty()) tell("metadata " + key, "only in " + a_.file());
      if (!other.empty() && other.mapped() != text) tell("metadata " + key, "another text");
    }
    for (const auto& [key, text] : others) tell("metadata " + key, "only in " + b_.file());
  }
};

/// The status, if what was printed has arrived.
int written(int status) {
  if (std::cout.flush()) return status;
  throw Error("cannot write the output");
}

}  // namespace

int main(int argc, char** argv) {
  const std::vector<std::string> files(argv + 1, argv + argc);
  const char* const usage = "usage: palimpsest_inspect FILE [OTHER]\n";
  if (files == std::vector<std::string>{"--help"}) {
    std::cout << usage;
    return Same;
  }
  if (files.empty() || files.size() > 2 || files.front().starts_with("-")) {
    std::cerr << usage;
    return Trouble;
  }
  try {
    SafetensorsReader first(files[0]);
    if (files.size() == 1) {
      list(first);
      return written(Same);
    }
    SafetensorsReader second(files[1]);
    first.verify();
    second.verify();
    return written(Comparison(first, second).run());
  } catch (const std::exception& error) {
    std::cerr << "palimpsest_inspect: " << error.what() << std::endl;
    return Trouble;
  }
}
