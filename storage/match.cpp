#include <palimpsest/storage/match.hpp>

#include <fnmatch.h>

#include <algorithm>
#include <map>
#include <span>

#include <palimpsest/core/error.hpp>
#include <palimpsest/storage/in_quotes.hpp>
#include <palimpsest/storage/torchvision_names.hpp>

namespace palimpsest::storage {
namespace {

/// A half-precision file fits a tensor of the program, an integer one only its own type.
bool fits(ElementType from, Dtype to) { return to == Dtype::Int32 ? from == ElementType::I32 : is_floating(from); }

/// Compares names with LoadOptions::except, and remembers which patterns have matched.
class Exceptions {
 public:
  explicit Exceptions(const std::vector<std::string>& patterns) : patterns_(patterns), used_(patterns.size()) {}

  bool names(const std::string& name) {
    bool any = false;
    for (std::size_t i = 0; i < patterns_.size(); ++i) {
      if (fnmatch(patterns_[i].c_str(), name.c_str(), 0) != 0) continue;
      used_[i] = any = true;
    }
    return any;
  }

  void check_used() const {
    for (std::size_t i = 0; i < patterns_.size(); ++i) {
      if (used_[i]) continue;
      throw ValueError(concat_text("'", patterns_[i], "' matches no tensor of the model or of the file"));
    }
  }

 private:
  const std::vector<std::string>& patterns_;
  std::vector<bool> used_;
};

/// The file's tensors by name; old spellings are the new ones where torchvision's names are looked for.
using ByName = std::map<std::string, const StoredTensor*>;

ByName by_name(const SafetensorsReader& reader, Names names) {
  ByName found;
  for (const StoredTensor& stored : reader.tensors()) {
    const std::string name = names == Names::Own ? stored.name : modern_spelling(stored.name);
    if (found.emplace(name, &stored).second) continue;
    throw DataError(concat_text(reader.file(), ": two spellings of ", in_quotes(name)));
  }
  return found;
}

/// The names to look for in a file, and the tensors that it has.
struct Sought {
  std::vector<std::string> names;
  ByName file;

  std::ptrdiff_t hits() const {
    return std::count_if(names.begin(), names.end(), [&](const std::string& name) { return file.contains(name); });
  }
};

Sought seek(const SafetensorsReader& reader, const std::vector<nn::NamedTensor>& tensors, Names names) {
  return {names_in_file(tensors, names), by_name(reader, names)};
}

/// By the names that were asked for, or those of which the file has more.
Sought seek(const SafetensorsReader& reader, const std::vector<nn::NamedTensor>& tensors,
            const std::optional<Names>& names) {
  if (names) return seek(reader, tensors, *names);
  Sought own = seek(reader, tensors, Names::Own);
  if (!torchvision_names(tensors)) return own;
  Sought theirs = seek(reader, tensors, Names::Torchvision);
  return theirs.hits() > own.hits() ? theirs : own;
}

/// The form of a stored tensor that does not fit; empty for one that does.
std::string misfit(const StoredTensor& stored, const nn::NamedTensor& own) {
  const Tensor& tensor = own.tensor;
  if (stored.shape == extents_of(tensor.shape()) && fits(stored.type, tensor.dtype())) return "";
  return concat_text(own.name, " is ", to_string(stored.type), " (", join(stored.shape), "), expected ",
                     to_string(element_type(tensor.dtype())), " ", tensor.shape());
}

/// The first few of them: all tensors of another network would be a message that nobody can read.
std::string listed(const char* what, const std::vector<std::string>& names) {
  constexpr std::size_t most = 5;
  if (names.empty()) return "";
  const std::size_t told = std::min(most, names.size());
  const std::string text = concat_text("; ", names.size(), " ", what, ": ", join(std::span(names).first(told)));
  return told == names.size() ? text : concat_text(text, " and ", names.size() - told, " more");
}

/// The part of a module that has all of these tensors: their names up to the last dot; empty if they differ.
std::string module_of(const std::vector<std::string>& names) {
  std::string module;
  for (const std::string& name : names) {
    const std::size_t dot = name.rfind('.');
    const std::string own = dot == std::string::npos ? "" : name.substr(0, dot);
    if (own.empty() || (!module.empty() && own != module)) return "";
    module = own;
  }
  return module;
}

}  // namespace

std::vector<std::string> names_in_file(const std::vector<nn::NamedTensor>& tensors, Names names) {
  std::vector<std::string> own;
  for (const nn::NamedTensor& tensor : tensors) own.push_back(tensor.name);
  if (names == Names::Own) return own;
  std::optional<std::vector<std::string>> theirs = torchvision_names(tensors);
  if (!theirs) throw ValueError("torchvision has names for DenseNets and ResNets, and this is neither");
  return std::move(*theirs);
}

std::vector<std::int64_t> extents_of(const Shape& shape) {
  std::vector<std::int64_t> extents;
  for (int i = 0; i < shape.rank(); ++i) extents.push_back(shape[i]);
  return extents;
}

Match match_tensors(const SafetensorsReader& reader, const std::vector<nn::NamedTensor>& tensors,
                    const LoadOptions& options) {
  Sought sought = seek(reader, tensors, options.names);
  Exceptions except(options.except);
  Match match;
  std::vector<std::string> missing, misshapen, unexpected;
  std::vector<std::string> misshapen_names;
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const auto& [name, tensor] = tensors[i];
    const auto found = sought.file.extract(sought.names[i]);
    const bool in_module = except.names(name), in_file = except.names(sought.names[i]);
    if (in_module || in_file) {
      match.report.left.push_back(name);
      if (!found.empty()) match.report.unused.push_back(found.mapped()->name);
      continue;
    }
    if (found.empty()) {
      missing.push_back(name);
      continue;
    }
    const StoredTensor& stored = *found.mapped();
    const std::string offence = misfit(stored, tensors[i]);
    if (!offence.empty()) {
      misshapen.push_back(offence);
      misshapen_names.push_back(name);
    }
    match.pairs.emplace_back(&tensor, &stored);
    match.report.taken.push_back(name);
  }
  for (const auto& [name, stored] : sought.file) {
    if (except.names(name)) {
      match.report.unused.push_back(stored->name);
    } else if (!counts_batches(name)) {
      unexpected.push_back(in_quotes(stored->name));
    }
  }
  except.check_used();
  const std::string offences =
      listed("missing", missing) + listed("unexpected", unexpected) + listed("of another form", misshapen);
  if (offences.empty()) return match;
  const bool only_forms = missing.empty() && unexpected.empty();
  throw MisfitError(concat_text(reader.file(), " does not fit the model", offences),
                    only_forms ? module_of(misshapen_names) : "");
}

}  // namespace palimpsest::storage
