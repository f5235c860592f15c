#pragma once

#include <map>
#include <string>
#include <vector>

#include <palimpsest/core/shape.hpp>

namespace palimpsest::testing {

/// A tensor of a golden file, in logical order (N, C, H, W).
struct GoldenTensor {
  Shape shape;
  std::vector<double> values;
};

/// A file that tests/golden/make_golden.py wrote: names to tensors.
class GoldenFile {
 public:
  /// Throws DataError if the file is missing or not what the script writes.
  explicit GoldenFile(const std::string& path);

  /// Throws DataError, naming the tensor, if there is none.
  const GoldenTensor& operator[](const std::string& name) const;
  double number(const std::string& name) const { return (*this)[name].values.at(0); }
  std::vector<std::int64_t> integers(const std::string& name) const;
  const std::map<std::string, GoldenTensor>& tensors() const { return tensors_; }

 private:
  std::string path_;
  std::map<std::string, GoldenTensor> tensors_;
};

/// The files call a shortcut's projection project1, our modules shortcut1.project.
std::string golden_name(const std::string& name);

}  // namespace palimpsest::testing
