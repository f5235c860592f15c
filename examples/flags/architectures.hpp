#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <palimpsest/nn/model.hpp>
#include <palimpsest/storage/safetensors.hpp>
#include "examples/flags/options.hpp"

namespace palimpsest::flags {

/// The training that a paper has for its networks, of 1,281,167 images.
struct Recipe {
  std::int64_t epochs;
  TrainingDefaults training;
};

/// The parts of a network that do not follow from its name.
struct NetForm {
  std::int64_t image_channels = 3;
  std::int64_t classes = 1000;
  std::string grid = "";                  ///< of a RevNet: fractional bits, or auto; empty: none
  std::vector<std::int64_t> layers = {};  ///< of a DenseNet of one's own: of each dense block
  std::int64_t growth = 12;               ///< of the same
};

/// A network for pictures that --arch names.
struct Architecture {
  std::string flag;
  std::string name;
  const Recipe& recipe;
  std::function<std::unique_ptr<nn::Classifier>(const NetForm& form, nn::Init init)> make;
};

const std::vector<Architecture>& architectures();
std::vector<std::string> architecture_flags();
/// Throws ValueError for another name, and for a form that another kind of network has.
const Architecture& architecture(const std::string& flag, const NetForm& form);

/// Adds --layers and --growth by add(flag, variable, type, description), and returns nothing.
template <class Add>
void add_form_flags(NetForm& form, const Add& add) {
  add("--layers", form.layers, "N,N,...", "of --arch densenet: layers of each dense block")->delimiter(',');
  add("--growth", form.growth, "K", "of --arch densenet: channels that each layer adds");
}

/// The facts that a file of weights tells of its network (`architecture`, `layers`, `growth`, `image_size`, `classes`)
/// and of a folder without halves (`split_seed`).
storage::Metadata facts_of(const Architecture& architecture, const NetForm& form, std::int64_t image_size,
                           const std::vector<std::string>& class_names, std::optional<std::uint64_t> split_seed);

/// The same, read.
struct KnownFacts {
  explicit KnownFacts(const storage::Metadata& metadata) : metadata_(metadata) {}

  /// The architecture that `flag` names, else the one that the file does; takes `form` from the file, too, where it is
  /// not given. Throws ValueError if neither names one.
  const Architecture& architecture(const std::string& flag, NetForm& form) const;
  /// Throws DataError for one that is no number.
  std::optional<std::int64_t> image_size() const;
  /// The name that --arch has for it; none if it has none.
  std::optional<std::string> architecture_flag() const;
  /// The seed that has split a folder without halves. Throws DataError for one that is no number.
  std::optional<std::uint64_t> split_seed() const;
  /// Empty if the file has none.
  std::vector<std::string> class_names() const;
  /// The number of classes: that of the classifier's biases. Throws DataError for a file without one.
  static std::int64_t classes_of(const storage::SafetensorsReader& file);

 private:
  const storage::Metadata& metadata_;

  std::optional<std::string> find(const std::string& key) const;
};

}  // namespace palimpsest::flags
