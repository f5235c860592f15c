#include "tests/support/golden_file.hpp"

#include <bit>
#include <fstream>
#include <regex>
#include <sstream>

#include <palimpsest/core/error.hpp>

namespace palimpsest::testing {
namespace {

static_assert(std::endian::native == std::endian::little, "golden files are little-endian");

Shape read_shape(std::istream& words) {
  int rank = 0;
  std::int64_t d[4] = {1, 1, 1, 1};
  words >> rank;
  for (int i = 0; i < rank && i < 4; ++i) words >> d[i];
  switch (rank) {
    case 0:
      return {};
    case 1:
      return {d[0]};
    case 2:
      return {d[0], d[1]};
    case 4:
      return {d[0], d[1], d[2], d[3]};
    default:
      throw DataError(concat_text("a golden tensor of rank ", rank));
  }
}

}  // namespace

GoldenFile::GoldenFile(const std::string& path) : path_(path) {
  std::ifstream file(path, std::ios::binary);
  std::string line;
  if (!std::getline(file, line) || line != "palimpsest-golden 1") throw DataError(path + ": not a golden file");
  std::vector<GoldenTensor*> order;
  while (std::getline(file, line) && line != "end") {
    std::istringstream words(line);
    std::string name;
    words >> name;
    GoldenTensor& tensor = tensors_[name];
    tensor.shape = read_shape(words);
    order.push_back(&tensor);
  }
  for (GoldenTensor* tensor : order) {
    tensor->values.resize(static_cast<std::size_t>(tensor->shape.count()));
    file.read(reinterpret_cast<char*>(tensor->values.data()),
              static_cast<std::streamsize>(tensor->values.size() * sizeof(double)));
  }
  if (!file || order.empty()) throw DataError(path + ": truncated");
}

const GoldenTensor& GoldenFile::operator[](const std::string& name) const {
  const auto found = tensors_.find(name);
  if (found == tensors_.end()) throw DataError(path_ + ": no tensor " + name);
  return found->second;
}

std::vector<std::int64_t> GoldenFile::integers(const std::string& name) const {
  const std::vector<double>& values = (*this)[name].values;
  return {values.begin(), values.end()};
}

std::string golden_name(const std::string& name) {
  return std::regex_replace(name, std::regex("shortcut([12]?)\\.project"), "project$1");
}

}  // namespace palimpsest::testing
