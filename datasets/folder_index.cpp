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

bool is_picture(const fs::path& path) {
  constexpr std::array<std::string_view, 3> endings = {".jpg", ".jpeg", ".png"};
  std::string ending = path.extension().string();
  std::transform(ending.begin(), ending.end(), ending.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return std::find(endings.begin(), endings.end(), ending) != endings.end();
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

/// The entries of a tree that are no pictures.
struct PassedOver {
  std::int64_t hidden = 0;
  std::int64_t others = 0;
  std::vector<std::string> broken_links;  ///< that lead nowhere, or back to where they are
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
      entry.is_symlink() ? passed_over_.broken_links.push_back(shown(entry.path())) : void(++passed_over_.others);
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
    } else {
      ++passed_over.others;
    }
  }
  std::sort(names.begin(), names.end());
  for (const std::string& name : names) {
    if (!is_printable(name)) {
      throw DataError(concat_text(shown(folder), ": the class ", printable(name), " has a name that is no UTF-8 text"));
    }
  }
  if (names.empty()) throw DataError(concat_text(shown(folder), ": has no folders, expected one for each class"));
  return names;
}

void note(const PassedOver& passed_over, FolderIndex& index) {
  const auto add = [&](const auto&... parts) {
    index.notes.push_back(concat_text(shown(index.folder), ": ", parts...));
  };
  if (passed_over.hidden > 0) add(passed_over.hidden, " names that begin with a dot are passed over");
  if (passed_over.others > 0) {
    add(passed_over.others, " files are passed over: their names end in none of .jpg, .jpeg and .png");
  }
  for (const std::string& link : passed_over.broken_links) {
    add("a link is passed over that leads nowhere, or to a folder that it is in: ", link);
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
      throw DataError(passed_over.others > 0 ? concat_text(what, "; ", passed_over.others, " files end otherwise")
                                             : what);
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
  throw DataError(concat_text(shown(folder), ": has train, but neither val nor test"));
}

}  // namespace palimpsest::datasets
