#include <palimpsest/train/checkpoint_reader.hpp>

#include <charconv>
#include <cstring>
#include <span>

namespace palimpsest::train {

using checkpoint::ColumnType;
using checkpoint::element_of;

CheckpointReader::CheckpointReader(const std::string& file) : reader_(file) {
  const std::optional<std::int64_t> version = number(checkpoint::version_key);
  if (!version) fail("is no checkpoint of a run");
  if (*version != checkpoint::version) {
    throw LaterVersion(
        concat_text(reader_.file(), " has version ", *version, " of the format, expected ", checkpoint::version));
  }
  if (!number(checkpoint::steps_key) || steps() < 0) fail("does not say how many steps were done");
}

std::map<std::string, std::string> CheckpointReader::settings() const {
  std::map<std::string, std::string> all;
  for (const auto& [key, value] : reader_.metadata()) {
    if (key.starts_with(checkpoint::setting_prefix)) {
      all.emplace(key.substr(std::strlen(checkpoint::setting_prefix)), value);
    }
  }
  return all;
}

RunRecord CheckpointReader::record() {
  RunRecord record;
  record.steps.resize(values<double>("record/loss").size());
  record.evaluations.resize(values<double>("record/metric").size());
  fill("loss", record.steps, &StepResult::loss);
  fill("milliseconds", record.steps, &StepResult::milliseconds);
  fill("samples", record.steps, &StepResult::samples);
  fill("kept_streams", record.steps, &StepResult::kept_streams);
  fill("learning_rate", record.steps, &StepResult::learning_rate);
  fill("peak_bytes", record.steps, &StepResult::peak);
  fill("evaluated_after", record.evaluations, &Evaluation::step);
  fill("metric", record.evaluations, &Evaluation::metric);
  if (static_cast<std::int64_t>(record.steps.size()) != steps()) {
    fail(concat_text("has a record of ", record.steps.size(), " steps, expected ", steps()));
  }
  return record;
}

void CheckpointReader::fail(const std::string& why) const { throw DataError(concat_text(reader_.file(), " ", why)); }

std::optional<std::int64_t> CheckpointReader::number(const char* key) const {
  const auto found = reader_.metadata().find(key);
  if (found == reader_.metadata().end()) return std::nullopt;
  std::int64_t value = 0;
  const char* const end = found->second.data() + found->second.size();
  const auto [parsed, error] = std::from_chars(found->second.data(), end, value);
  return error == std::errc() && parsed == end ? std::optional(value) : std::nullopt;
}

const storage::StoredTensor& CheckpointReader::tensor(const std::string& name) const {
  for (const storage::StoredTensor& stored : reader_.tensors()) {
    if (stored.name == name) return stored;
  }
  fail(concat_text("has no ", name));
}

/// A column of whole numbers or of float64.
template <class T>
std::vector<T> CheckpointReader::values(const std::string& name) {
  const storage::StoredTensor& stored = tensor(name);
  if (stored.type != element_of<T> || stored.shape.size() != 1) {
    fail(concat_text("has ", name, " of ", to_string(stored.type), " in ", stored.shape.size(),
                     " dimensions, expected ", to_string(element_of<T>), " in one"));
  }
  std::vector<T> all(stored.bytes / sizeof(T));
  reader_.read(stored, 0, std::as_writable_bytes(std::span<T>(all)));
  return all;
}

template <class Row, class Field>
void CheckpointReader::fill(const char* name, std::vector<Row>& rows, Field Row::*field) {
  const auto read = values<ColumnType<Field>>(std::string(checkpoint::record_prefix) + name);
  if (read.size() != rows.size()) {
    fail(concat_text("has ", read.size(), " values of ", name, ", expected ", rows.size()));
  }
  for (std::size_t i = 0; i < rows.size(); ++i) rows[i].*field = static_cast<Field>(read[i]);
}

}  // namespace palimpsest::train
