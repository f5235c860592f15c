#include <palimpsest/train/checkpoint_file.hpp>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <map>
#include <optional>
#include <utility>

#include <palimpsest/storage/weights.hpp>
#include <palimpsest/train/checkpoint_reader.hpp>

namespace palimpsest::train {
namespace {

// --- The record in columns -------------------------------------------------------------------------------------------

template <class T>
storage::TensorToStore column(const std::string& name, std::vector<T> values) {
  const auto rows = static_cast<std::int64_t>(values.size());
  return {name, checkpoint::element_of<T>, {rows}, [values = std::move(values)](const storage::PutBytes& put) {
            put(std::as_bytes(std::span<const T>(values)));
          }};
}

template <class Row, class Field>
auto column_of(const char* name, const std::vector<Row>& rows, Field Row::*field) {
  using T = checkpoint::ColumnType<Field>;
  std::vector<T> values;
  for (const Row& row : rows) values.push_back(static_cast<T>(row.*field));
  return column(std::string(checkpoint::record_prefix) + name, std::move(values));
}

std::vector<storage::TensorToStore> record_to_store(const RunRecord& record) {
  return {column_of("loss", record.steps, &StepResult::loss),
          column_of("milliseconds", record.steps, &StepResult::milliseconds),
          column_of("samples", record.steps, &StepResult::samples),
          column_of("kept_streams", record.steps, &StepResult::kept_streams),
          column_of("learning_rate", record.steps, &StepResult::learning_rate),
          column_of("peak_bytes", record.steps, &StepResult::peak),
          column_of("evaluated_after", record.evaluations, &Evaluation::step),
          column_of("metric", record.evaluations, &Evaluation::metric)};
}

// --- The settings ----------------------------------------------------------------------------------------------------

/// "--depth is 40, 100 in the checkpoint" for every setting that differs.
std::vector<std::string> differences(const std::map<std::string, std::string>& stored,
                                     const std::vector<Setting>& settings) {
  std::vector<std::string> different;
  std::map<std::string, std::string> rest = stored;
  for (const auto& [name, value] : settings) {
    const auto there = rest.find(name);
    if (there == rest.end()) {
      different.push_back(concat_text(name, " is ", value, ", not set in the checkpoint"));
    } else if (there->second != value) {
      different.push_back(concat_text(name, " is ", value, ", ", there->second, " in the checkpoint"));
    }
    if (there != rest.end()) rest.erase(there);
  }
  for (const auto& [name, value] : rest) {
    different.push_back(concat_text(name, " is not set, ", value, " in the checkpoint"));
  }
  return different;
}

/// The same for the first step whose learning rate is another than it was.
std::optional<std::string> different_rate(const RunRecord& record, const RunState& state) {
  for (std::size_t step = 0; state.learning_rate && step < record.steps.size(); ++step) {
    const double now = state.learning_rate(static_cast<std::int64_t>(step));
    if (now == record.steps[step].learning_rate) continue;
    return concat_text("the learning rate of step ", step + 1, " is ", now, ", ", record.steps[step].learning_rate,
                       " in the checkpoint", state.rate_follows_from);
  }
  return std::nullopt;
}

void check_settings(const CheckpointReader& checkpoint, const RunRecord& record, const RunState& state) {
  std::vector<std::string> different = differences(checkpoint.settings(), state.settings);
  if (const std::optional<std::string> rate = different_rate(record, state)) different.push_back(*rate);
  if (different.empty()) return;
  throw ResumeError(concat_text("the run of the checkpoint was another: ", join(different, "; ")));
}

// --- Tensors ---------------------------------------------------------------------------------------------------------

std::vector<nn::NamedTensor> prefixed(std::vector<nn::NamedTensor> tensors, const std::string& prefix) {
  for (nn::NamedTensor& tensor : tensors) tensor.name.insert(0, prefix);
  return tensors;
}

/// Tensors of the same names and shapes without elements: of them load_weights() compares only that.
std::vector<nn::NamedTensor> shapes_of(const std::vector<nn::NamedTensor>& tensors) {
  std::vector<nn::NamedTensor> shapes;
  for (const auto& [name, tensor] : tensors) {
    shapes.push_back({name, Tensor::empty(tensor.shape(), tensor.dtype(), meta_of(tensor.device()))});
  }
  return shapes;
}

std::optional<Dtype> dtype_of(storage::ElementType type) {
  for (const Dtype dtype : {Dtype::Float32, Dtype::Float64, Dtype::Int32}) {
    if (storage::element_type(dtype) == type) return dtype;
  }
  return std::nullopt;
}

/// Nullopt for extents that no tensor of the library has.
std::optional<Shape> shape_of(const std::vector<std::int64_t>& extents) {
  if (std::any_of(extents.begin(), extents.end(), [](std::int64_t extent) { return extent < 1; })) return std::nullopt;
  const auto at = [&](std::size_t i) { return extents[i]; };
  switch (extents.size()) {
    case 0:
      return Shape{};
    case 1:
      return Shape{at(0)};
    case 2:
      return Shape{at(0), at(1)};
    case 3:
      return Shape{at(0), at(1), at(2)};
    case 4:
      return Shape{at(0), at(1), at(2), at(3)};
    default:
      return std::nullopt;
  }
}

/// A tensor like one in the file, of zeros.
Tensor zeros_like(const CheckpointReader& checkpoint, const storage::StoredTensor& stored, Device device) {
  const std::optional<Dtype> dtype = dtype_of(stored.type);
  const std::optional<Shape> shape = shape_of(stored.shape);
  if (!dtype || !shape) {
    checkpoint.fail(concat_text("has ", stored.name, ", which can be no optimiser's: ", to_string(stored.type), " (",
                                join(stored.shape), ")"));
  }
  return Tensor::zeros(*shape, *dtype, device, Tag::Optimiser);
}

/// Zeros for all of the optimiser's state that the file has.
std::vector<nn::NamedTensor> zeroed_optimiser(CheckpointReader& checkpoint, Device device) {
  std::vector<nn::NamedTensor> zeros;
  for (const storage::StoredTensor& stored : checkpoint.reader().tensors()) {
    if (!stored.name.starts_with(checkpoint::optimiser_prefix)) continue;
    zeros.push_back(
        {stored.name.substr(std::strlen(checkpoint::optimiser_prefix)), zeros_like(checkpoint, stored, device)});
  }
  return zeros;
}

/// Patterns of the tensors in a file that begin like one of these. A pattern must match something.
std::vector<std::string> patterns_of(const storage::SafetensorsReader& reader,
                                     std::initializer_list<const char*> begins) {
  std::vector<std::string> patterns;
  for (const char* const begin : begins) {
    const auto matches = [&](const storage::StoredTensor& stored) { return stored.name.starts_with(begin); };
    if (std::any_of(reader.tensors().begin(), reader.tensors().end(), matches)) {
      patterns.push_back(std::string(begin) + "*");
    }
  }
  return patterns;
}

std::vector<nn::NamedTensor> joined(std::vector<nn::NamedTensor> all, const std::vector<nn::NamedTensor>& more) {
  all.insert(all.end(), more.begin(), more.end());
  return all;
}

/// Seed and offset of every random counter that the run has.
std::vector<std::int64_t> checked_counters(CheckpointReader& checkpoint, const RunState& state) {
  std::vector<std::int64_t> counters = checkpoint.counters();
  if (counters.size() != 2 * state.generators.size()) {
    checkpoint.fail(concat_text("has ", counters.size() / 2, " random counters, expected ", state.generators.size()));
  }
  return counters;
}

/// The file must have all of the state that the optimiser has already.
void check_optimiser(const CheckpointReader& checkpoint, const std::vector<nn::NamedTensor>& there,
                     const std::vector<nn::NamedTensor>& stored) {
  for (const nn::NamedTensor& tensor : there) {
    const auto is_it = [&](const nn::NamedTensor& one) {
      return one.name == tensor.name && one.tensor.shape() == tensor.tensor.shape() &&
             one.tensor.dtype() == tensor.tensor.dtype();
    };
    if (std::none_of(stored.begin(), stored.end(), is_it)) {
      checkpoint.fail(concat_text("has no ", checkpoint::optimiser_prefix, tensor.name, " of ", tensor.tensor.dtype(),
                                  " ", tensor.tensor.shape()));
    }
  }
}

}  // namespace

PendingFile stage_checkpoint(const std::string& file, const RunState& state, std::int64_t steps) {
  std::vector<storage::TensorToStore> tensors = storage::tensors_to_store(
      joined(storage::state_of(state.model), prefixed(state.optimiser.state(), checkpoint::optimiser_prefix)));
  std::vector<std::int64_t> counters;
  for (const std::shared_ptr<Generator>& generator : state.generators) {
    counters.push_back(static_cast<std::int64_t>(generator->seed));
    counters.push_back(static_cast<std::int64_t>(generator->offset));
  }
  tensors.push_back(column(checkpoint::counters_name, std::move(counters)));
  if (state.record != nullptr) {
    for (storage::TensorToStore& part : record_to_store(*state.record)) tensors.push_back(std::move(part));
  }
  storage::Metadata metadata{{checkpoint::version_key, std::to_string(checkpoint::version)},
                             {checkpoint::steps_key, std::to_string(steps)}};
  for (const auto& [name, value] : state.settings) metadata.emplace(checkpoint::setting_prefix + name, value);
  return storage::stage_safetensors(WholeFile(file), std::move(tensors), std::move(metadata));
}

std::size_t checkpoint_bytes(const nn::Module& model, const nn::Optimiser& optimiser) {
  std::size_t bytes = 0;
  for (const nn::NamedTensor& tensor : joined(storage::state_of(model), optimiser.state())) {
    bytes += tensor.tensor.value().bytes();
  }
  return bytes;
}

void verify_checkpoint(const std::string& file, std::optional<std::int64_t> steps) {
  if (!std::ifstream(file)) throw Error(concat_text(file, ": cannot be opened: ", std::strerror(errno)));
  try {
    CheckpointReader checkpoint(file);
    if (!checkpoint.reader().has_checksums()) checkpoint.fail("has no checksums");
    checkpoint.reader().verify();
    if (steps && checkpoint.steps() != *steps) {
      checkpoint.fail(concat_text("is of the run after ", checkpoint.steps(), " steps, expected ", *steps));
    }
  } catch (const LaterVersion&) {
    throw;
  } catch (const DataError& error) {
    throw DamagedCheckpoint(error.what());
  }
}

std::vector<std::string> beside_the_model(const storage::SafetensorsReader& reader) {
  if (!reader.metadata().contains(checkpoint::version_key)) return {};
  return patterns_of(reader, {checkpoint::optimiser_prefix, checkpoint::record_prefix, checkpoint::counters_name});
}

std::int64_t read_checkpoint(const std::string& file, const RunState& state) {
  CheckpointReader checkpoint(file);
  storage::SafetensorsReader& reader = checkpoint.reader();
  RunRecord record = state.record != nullptr ? checkpoint.record() : RunRecord();
  check_settings(checkpoint, record, state);
  const std::vector<std::int64_t> counters = checked_counters(checkpoint, state);
  const std::vector<nn::NamedTensor> model = storage::state_of(state.model);
  const storage::LoadOptions options{
      .except = patterns_of(reader, {checkpoint::record_prefix, checkpoint::counters_name}),
      .names = storage::Names::Own};
  {
    const std::vector<nn::NamedTensor> zeros =
        zeroed_optimiser(checkpoint, model.empty() ? Device::Cpu : model.front().tensor.device());
    storage::load_weights(reader, shapes_of(joined(model, prefixed(zeros, checkpoint::optimiser_prefix))), options);
    check_optimiser(checkpoint, state.optimiser.state(), zeros);
    try {
      state.optimiser.set_state(zeros);  // which finds out whether it has such a state
    } catch (const Error& error) {
      checkpoint.fail(concat_text("has the state of another optimiser: ", error.what()));
    }
  }
  storage::load_weights(reader, joined(model, prefixed(state.optimiser.state(), checkpoint::optimiser_prefix)),
                        options);
  for (std::size_t i = 0; i < state.generators.size(); ++i) {
    *state.generators[i] = {static_cast<std::uint64_t>(counters[2 * i]),
                            static_cast<std::uint64_t>(counters[2 * i + 1])};
  }
  if (state.record != nullptr) *state.record = std::move(record);
  return checkpoint.steps();
}

}  // namespace palimpsest::train
