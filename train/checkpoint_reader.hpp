#pragma once

// The parts of a checkpoint (docs/formats.md) that are no tensors of a model or an optimiser, as the file has them.

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <type_traits>
#include <vector>

#include <palimpsest/core/error.hpp>
#include <palimpsest/storage/safetensors.hpp>
#include <palimpsest/train/run_record.hpp>

namespace palimpsest::train {

namespace checkpoint {

inline constexpr std::int64_t version = 1;
inline constexpr const char* version_key = "checkpoint_version";
inline constexpr const char* steps_key = "steps";
inline constexpr const char* setting_prefix = "setting ";
inline constexpr const char* optimiser_prefix = "optimiser/";
inline constexpr const char* record_prefix = "record/";
inline constexpr const char* counters_name = "random/counters";

/// A column of the record has numbers of one of two types.
template <class Field>
using ColumnType = std::conditional_t<std::is_floating_point_v<Field>, double, std::int64_t>;
template <class T>
inline constexpr storage::ElementType element_of =
    std::is_same_v<T, double> ? storage::ElementType::F64 : storage::ElementType::I64;

}  // namespace checkpoint

/// A checkpoint that a later version of the library has written.
class LaterVersion : public DataError {
 public:
  using DataError::DataError;
};

/// A checkpoint that is open. Throws DataError, naming the file, for one that is none, and, from each function, for a
/// part that is not as it should be.
class CheckpointReader {
 public:
  explicit CheckpointReader(const std::string& file);

  storage::SafetensorsReader& reader() { return reader_; }
  /// Steps that were done.
  std::int64_t steps() const { return *number(checkpoint::steps_key); }
  /// By their names.
  std::map<std::string, std::string> settings() const;
  /// Seed and offset of each stream of random numbers.
  std::vector<std::int64_t> counters() { return values<std::int64_t>(checkpoint::counters_name); }
  RunRecord record();

  [[noreturn]] void fail(const std::string& why) const;

 private:
  storage::SafetensorsReader reader_;

  std::optional<std::int64_t> number(const char* key) const;
  const storage::StoredTensor& tensor(const std::string& name) const;
  template <class T>
  std::vector<T> values(const std::string& name);
  template <class Row, class Field>
  void fill(const char* name, std::vector<Row>& rows, Field Row::*field);
};

}  // namespace palimpsest::train
