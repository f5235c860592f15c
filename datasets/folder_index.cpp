#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <cmath>
#include <numeric>
#include <system_error>
#include <utility>

#include <palimpsest/core/error.hpp>
#include <palimpsest/datasets/image_folder.hpp>
#include <palimpsest/datasets/printable.hpp>

namespace palimpsest::datasets {
namespace {

namespace fs = std::filesystem;

std::string shown(const fs::path& path) { return printable(path.string()); }

bool is_folder(const fs::path& path) {
  std::error_code ignored;
  return fs::is_directory(path, ignored);
}

bool is_hidden(const fs::path& path) { return path.filename().string().starts_with('.'); }

/// "1 file", "2 files".
std::string counted(std::int64_t count, const char* what) {
  return concat_text(count, ' ', what, count == 1 ? "" : "s");
}

/// With the letters of ASCII in lower case.
std::string lower(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return text;
}

bool is_picture(const fs::path& path) {
  constexpr std::array<std::string_view, 3> endings = {".jpg", ".jpeg", ".png"};
  return std::find(endings.begin(), endings.end(), lower(path.extension().string())) != endings.end();
}

/// The entries of a folder by the order of their names' bytes. Throws DataError if it cannot be read.
std::vector<fs::directory_entry> entries_of(const fs::path& folder) {
  std::vector<fs::directory_entry> entries;
  std::error_code error;
  for (fs::directory_iterator entry(folder, error), end; !error && entry != end; entry.increment(error)) {
    entries.push_back(*entry);
  }
  if (error) throw DataError(concat_text(shown(folder), ": cannot be read: ", error.message()));
  std::sort(entries.begin(), entries.end(), [](const auto& a, const auto& b) { return a.path() < b.path(); });
  return entries;
}

/// The entries of a tree that are no pictures, or lie where none are looked for.
struct PassedOver {
  std::int64_t hidden = 0;
  std::int64_t others = 0;                ///< by their names
  std::int64_t beside = 0;                ///< pictures beside the classes' folders
  std::int64_t no_files = 0;              ///< devices, pipes
  std::vector<std::string> broken_links;  ///< that lead nowhere, or back to where they are

  /// An entry that is neither a folder nor a regular file.
  void add_special(const fs::directory_entry& entry) {
    std::error_code ignored;
    fs::exists(entry.path(), ignored) ? void(++no_files) : broken_links.push_back(shown(entry.path()));
  }
};

/// A folder as the file system knows it, whatever it is called.
using Identity = std::pair<dev_t, ino_t>;

Identity identity_of(const fs::path& folder) {
  struct stat facts {};
  if (stat(folder.c_str(), &facts) != 0) throw DataError(concat_text(shown(folder), ": cannot be looked at"));
  return {facts.st_dev, facts.st_ino};
}

/// The pictures below a folder, by their paths from `root`.
class Walk {
 public:
  Walk(const fs::path& root, PassedOver& passed_over)
      : root_(root), passed_over_(passed_over), inside_{identity_of(root)} {}

  std::vector<std::string> pictures(const fs::path& folder) {
    found_.clear();
    enter(folder);
    std::sort(found_.begin(), found_.end());
    return std::move(found_);
  }

 private:
  const fs::path& root_;
  PassedOver& passed_over_;
  std::vector<Identity> inside_;  // folders that the walk is in
  std::vector<std::string> found_;

  void enter(const fs::path& folder) {
    const Identity identity = identity_of(folder);
    if (std::find(inside_.begin(), inside_.end(), identity) != inside_.end()) {
      passed_over_.broken_links.push_back(shown(folder));
      return;
    }
    inside_.push_back(identity);
    for (const fs::directory_entry& entry : entries_of(folder)) look_at(entry);
    inside_.pop_back();
  }

  void look_at(const fs::directory_entry& entry) {
    std::error_code error;
    if (is_hidden(entry.path())) {
      ++passed_over_.hidden;
    } else if (entry.is_directory(error)) {
      enter(entry.path());
    } else if (!entry.is_regular_file(error)) {
      passed_over_.add_special(entry);
    } else if (is_picture(entry.path())) {
      found_.push_back(entry.path().lexically_relative(root_).string());
    } else {
      ++passed_over_.others;
    }
  }
};

/// The folders in a folder, which are its classes. Throws DataError for none, and for names that are no UTF-8.
std::vector<std::string> class_names(const fs::path& folder, PassedOver& passed_over) {
  std::vector<std::string> names;
  for (const fs::directory_entry& entry : entries_of(folder)) {
    if (is_hidden(entry.path())) {
      ++passed_over.hidden;
    } else if (is_folder(entry.path())) {
      names.push_back(entry.path().filename().string());
    } else if (std::error_code error; !entry.is_regular_file(error)) {
      passed_over.add_special(entry);
    } else {
      ++(is_picture(entry.path()) ? passed_over.beside : passed_over.others);
    }
  }
  std::sort(names.begin(), names.end());
  for (const std::string& name : names) {
    if (!is_printable(name)) {
      throw DataError(concat_text(shown(folder), ": the class ", printable(name),
                                  " has a name that is no text in UTF-8, or has control characters"));
    }
  }
  if (names.empty()) {
    const bool is_half = folder.filename() == "train";
    throw DataError(concat_text(shown(folder), ": has no folders, expected one for each class",
                                is_half ? " (a folder train is a half of the pictures, not a class)" : ""));
  }
  return names;
}

/// Throws DataError if all these folders are called as halves of the pictures are somewhere.
void refuse_halves(const fs::path& folder, const std::vector<std::string>& names) {
  constexpr std::array<std::string_view, 7> halves = {"train",      "training", "val",    "valid",
                                                      "validation", "test",     "testing"};
  const auto is_half = [&](const std::string& name) {
    return std::find(halves.begin(), halves.end(), lower(name)) != halves.end();
  };
  if (!std::all_of(names.begin(), names.end(), is_half)) return;
  throw DataError(
      concat_text(shown(folder), ": has ", join(names), ", expected train and val, or a folder for each class"));
}

void note(const PassedOver& passed_over, FolderIndex& index) {
  const auto add = [&](const auto&... parts) {
    index.notes.push_back(concat_text(shown(index.folder), ": ", parts...));
  };
  if (passed_over.hidden > 0) add("passed over: ", counted(passed_over.hidden, "name"), " beginning with a dot");
  if (passed_over.others > 0) {
    add("passed over: ", counted(passed_over.others, "file"), " ending in none of .jpg, .jpeg and .png");
  }
  if (passed_over.beside > 0) add("passed over: ", counted(passed_over.beside, "picture"), " in no class's folder");
  if (passed_over.no_files > 0) add("passed over: ", counted(passed_over.no_files, "device or pipe"));
  for (const std::string& link : passed_over.broken_links) {
    add("passed over: a link that leads nowhere, or to a folder that it is in: ", link);
  }
}

/// The pictures of all classes, one class behind the other.
FolderIndex index_classes(const fs::path& folder, std::vector<std::string> classes, PassedOver passed_over,
                          bool may_be_empty) {
  FolderIndex index{.folder = folder, .classes = std::move(classes)};
  Walk walk(folder, passed_over);
  std::vector<std::string> empty;
  for (std::size_t c = 0; c < index.classes.size(); ++c) {
    const fs::path of_class = folder / index.classes[c];
    const std::vector<std::string> files =
        may_be_empty && !is_folder(of_class) ? std::vector<std::string>() : walk.pictures(of_class);
    if (files.empty()) empty.push_back(index.classes[c]);
    for (const std::string& file : files) {
      index.names += file;
      index.ends.push_back(index.names.size());
      index.labels.push_back(static_cast<std::int32_t>(c));
    }
  }
  note(passed_over, index);
  if (!empty.empty()) {
    const std::string what = concat_text(shown(folder), ": no JPEG or PNG in class ", join(empty));
    if (!may_be_empty || index.count() == 0) {
      throw DataError(
          passed_over.others > 0 ? concat_text(what, "; other endings: ", counted(passed_over.others, "file")) : what);
    }
    index.notes.push_back(what);
  }
  return index;
}

/// The test half, by the classes of the training half.
FolderIndex index_test(const fs::path& training, const fs::path& test) {
  PassedOver ignored;
  PassedOver passed_over;
  std::vector<std::string> classes = class_names(training, ignored);
  for (const std::string& name : class_names(test, passed_over)) {
    if (!std::binary_search(classes.begin(), classes.end(), name)) {
      throw DataError(concat_text(shown(test), ": has class ", name, ", which ", shown(training), " has not"));
    }
  }
  return index_classes(test, std::move(classes), passed_over, true);
}

/// The pictures of a half of the folder: of each class a share, drawn by the seed and the class, is the test's.
std::vector<std::int64_t> half_of(const FolderIndex& index, Split split, const FolderOptions& options) {
  constexpr std::uint64_t stream = 0x73706C6974;  // "split"
  std::vector<std::int64_t> chosen;
  for (auto begin = index.labels.begin(); begin != index.labels.end();) {
    const auto end = std::upper_bound(begin, index.labels.end(), *begin);
    std::vector<std::int64_t> all(static_cast<std::size_t>(end - begin));
    std::iota(all.begin(), all.end(), begin - index.labels.begin());
    Random random(options.seed, stream + static_cast<std::uint64_t>(*begin));
    for (std::size_t left = all.size(); left > 1; --left) std::swap(all[left - 1], all[random.below(left)]);
    const auto held_back =
        static_cast<std::ptrdiff_t>(std::lround(options.test_share * static_cast<double>(all.size())));
    const auto middle = all.begin() + std::clamp<std::ptrdiff_t>(held_back, all.size() > 1 ? 1 : 0, end - begin - 1);
    const auto first = split == Split::Test ? all.begin() : middle;
    const auto last = split == Split::Test ? middle : all.end();
    std::sort(first, last);
    chosen.insert(chosen.end(), first, last);
    begin = end;
  }
  return chosen;
}

}  // namespace

FolderIndex index_folder(const fs::path& folder, Split split, const FolderOptions& options) {
  if (!(options.test_share > 0 && options.test_share < 1)) {
    throw ValueError(
        concat_text("a share of ", options.test_share, " for the test, expected more than 0, less than 1"));
  }
  if (!is_folder(folder)) throw DataError(concat_text(shown(folder), ": no such folder"));
  const fs::path training = folder / "train";
  PassedOver passed_over;
  if (!is_folder(training)) {
    std::vector<std::string> classes = class_names(folder, passed_over);
    refuse_halves(folder, classes);
    const FolderIndex whole = index_classes(folder, std::move(classes), passed_over, false);
    return whole.subset(half_of(whole, split, options));
  }
  if (split == Split::Train) {
    std::vector<std::string> classes = class_names(training, passed_over);
    return index_classes(training, std::move(classes), passed_over, false);
  }
  for (const char* const name : {"val", "test"}) {
    if (is_folder(folder / name)) return index_test(training, folder / name);
  }
  throw DataError(concat_text(shown(folder), ": has train, but neither val nor test to evaluate with"));
}

}  // namespace palimpsest::datasets
