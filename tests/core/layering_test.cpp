// The directions between rooms, and the words that each may know: read from the sources themselves.

#include <gtest/gtest.h>

#include <algorithm>
#include <cctype>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <set>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

#include "tests/support/source_root.hpp"

namespace palimpsest {
namespace {

namespace fs = std::filesystem;

const fs::path root = test::source_root();

std::string read(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

bool is_source(const fs::path& path) {
  const std::string extension = path.extension();
  return extension == ".cpp" || extension == ".hpp" || extension == ".cu" || extension == ".cuh";
}

/// The sources of a folder, relative to the root.
std::vector<fs::path> sources(const fs::path& folder) {
  std::vector<fs::path> found;
  if (!fs::exists(root / folder)) return found;
  for (const auto& entry : fs::recursive_directory_iterator(root / folder)) {
    if (entry.is_regular_file() && is_source(entry.path())) found.push_back(fs::relative(entry.path(), root));
  }
  return found;
}

struct Includes {
  std::vector<std::string> rooted;  // of the library, <palimpsest/...>, from the root
  std::vector<std::string> quoted;  // of tests, benchmarks and examples, from the root
  std::vector<std::string> system;

  /// All of this project.
  std::vector<std::string> own() const {
    std::vector<std::string> all = rooted;
    all.insert(all.end(), quoted.begin(), quoted.end());
    return all;
  }
};

/// The headers after `#include` on its line.
Includes includes_of(const fs::path& source) {
  Includes includes;
  std::istringstream in(read(root / source));
  for (std::string line; std::getline(in, line);) {
    std::erase(line, ' ');
    constexpr std::string_view directive = "#include";
    if (!line.starts_with(directive) || line.size() < directive.size() + 2) continue;
    constexpr std::string_view prefix = "palimpsest/";
    const bool quoted = line[directive.size()] == '"';
    const std::string rest = line.substr(directive.size() + 1);
    const std::string header = rest.substr(0, rest.find_first_of("\">"));
    if (!quoted && header.starts_with(prefix)) {
      includes.rooted.push_back(header.substr(prefix.size()));
    } else {
      (quoted ? includes.quoted : includes.system).push_back(header);
    }
  }
  return includes;
}

/// The text without comments. No source here has // or /* in a string.
std::string code_of(const fs::path& source) {
  std::string code = read(root / source);
  const auto strip = [&](std::string_view begin, std::string_view end) {
    for (std::size_t at = code.find(begin); at != std::string::npos; at = code.find(begin, at)) {
      code.erase(at, std::min(code.find(end, at), code.size()) - at);
    }
  };
  strip("/*", "*/");
  strip("//", "\n");
  return code;
}

bool in_word(char c) { return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_'; }

/// The names that the code takes from namespace std.
std::set<std::string> standard_names(const std::string& code) {
  constexpr std::string_view prefix = "std::";
  std::set<std::string> names;
  for (std::size_t at = code.find(prefix); at != std::string::npos; at = code.find(prefix, at)) {
    std::size_t end = at += prefix.size();
    while (end < code.size() && in_word(code[end])) ++end;
    names.insert(code.substr(at, end - at));
  }
  return names;
}

std::string folder_of(const fs::path& path) { return path.begin()->string(); }

/// The path of a quoted header: from the root or, without a folder, beside the file that includes it.
fs::path resolved(const std::string& header, const fs::path& from) {
  return header.find('/') == std::string::npos ? from.parent_path() / header : fs::path(header);
}

// The rooms that each may include. ops and memory do not know each other: the tape asks policies through an interface
// in autograd.
const std::map<std::string, std::set<std::string>> allowed = {
    {"core", {"core"}},
    {"autograd", {"core", "autograd"}},
    {"ops", {"core", "autograd", "ops"}},
    {"memory", {"core", "autograd", "memory"}},
    {"nn", {"core", "autograd", "ops", "nn"}},
    {"datasets", {"core", "datasets"}},
    {"storage", {"core", "autograd", "nn", "storage"}},
    {"train", {"core", "autograd", "ops", "memory", "nn", "datasets", "storage", "train"}},
    {"reports", {"core", "autograd", "memory", "nn", "storage", "train", "reports"}},
    {"examples", {"core", "autograd", "ops", "memory", "nn", "datasets", "storage", "train", "reports", "examples"}},
    {"bench", {"core", "autograd", "ops", "memory", "nn", "datasets", "train", "bench", "tests"}},
    {"tests",
     {"core", "autograd", "ops", "memory", "nn", "datasets", "storage", "train", "reports", "examples", "tests"}},
};

TEST(Layering, EveryFolderIncludesOnlyWhatItMay) {
  for (const auto& [folder, may] : allowed) {
    for (const fs::path& source : sources(folder)) {
      for (const std::string& header : includes_of(source).own()) {
        EXPECT_TRUE(may.contains(folder_of(resolved(header, source)))) << source << " includes " << header;
      }
    }
  }
}

TEST(Layering, TheEngineIsNobodyElsesAndContractsDoNotNeedIt) {
  for (const auto& [folder, may] : allowed) {
    for (const fs::path& source : sources(folder)) {
      const bool inside = source.string().starts_with("autograd/") && source.extension() == ".cpp";
      const bool engine = source.string().starts_with("autograd/engine/");
      if (inside || engine || folder == "tests") continue;
      for (const std::string& header : includes_of(source).rooted) {
        EXPECT_FALSE(header.starts_with("autograd/engine/")) << source << " includes " << header;
      }
    }
  }
}

TEST(Layering, HeadersOfTheLibraryAreBracketed) {
  const std::set<std::string> beside = {"tests", "examples", "bench"};  // not installed
  std::size_t headers = 0;
  for (const auto& [folder, may] : allowed) {
    for (const fs::path& source : sources(folder)) {
      const Includes includes = includes_of(source);
      for (const std::string& header : includes.own()) {
        EXPECT_TRUE(fs::exists(root / resolved(header, source))) << source << " includes " << header;
      }
      for (const std::string& header : includes.rooted) {
        EXPECT_FALSE(beside.contains(folder_of(header))) << source << " includes " << header;
        ++headers;
      }
      for (const std::string& header : includes.quoted) {
        EXPECT_TRUE(beside.contains(folder_of(resolved(header, source)))) << source << " includes " << header;
      }
    }
  }
  EXPECT_GT(headers, 200U);  // the test does find them
}

/// JSON is known where reports and files of weights are written, and flags in the examples: no header of the library
/// has a type of either.
TEST(Layering, JsonAndFlagsStayWhereTheyAreUsed) {
  std::size_t users = 0;
  for (const auto& [folder, may] : allowed) {
    if (folder == "tests") continue;
    for (const fs::path& source : sources(folder)) {
      for (const std::string& header : includes_of(source).system) {
        const bool json = header.starts_with("nlohmann/");
        const bool flags = header.starts_with("CLI/");
        users += json || flags ? 1 : 0;
        EXPECT_TRUE(!json || ((folder == "reports" || folder == "storage" || folder == "examples") &&
                              source.extension() == ".cpp"))
            << source << " includes " << header;
        EXPECT_TRUE(!flags || folder == "examples") << source << " includes " << header;
      }
    }
  }
  EXPECT_GE(users, 5U);  // the test does find them
}

TEST(Layering, HeadersAreIncludedOnce) {
  for (const auto& [folder, may] : allowed) {
    for (const fs::path& source : sources(folder)) {
      if (source.extension() != ".hpp") continue;
      EXPECT_TRUE(read(root / source).starts_with("#pragma once\n")) << source;
    }
  }
}

/// Ways in which the code names a policy.
std::vector<std::string> policies_named(const fs::path& source) {
  const std::string code = code_of(source);
  std::vector<std::string> named;
  for (const char* word : {"memory::", "store_all(", "shared(", "checkpoint(", "reversible(", "\"store-all\"",
                           "\"shared\"", "\"checkpoint\"", "\"reversible\""}) {
    const std::string name(word);
    for (std::size_t at = code.find(name); at != std::string::npos; at = code.find(name, at + 1)) {
      if (at == 0 || !in_word(code[at - 1])) named.push_back(name);
    }
  }
  return named;
}

TEST(Layering, ModelsAndOpsNameNoPolicy) {
  for (const char* folder : {"ops", "nn"}) {
    for (const fs::path& source : sources(folder)) {
      EXPECT_EQ(policies_named(source), std::vector<std::string>{}) << source;
      for (const std::string& header : includes_of(source).rooted) EXPECT_NE(folder_of(header), "memory") << source;
    }
  }
}

TEST(Layering, KernelsInstantiateNothingThatOtherFilesShare) {
  // Kernels are compiled for instruction sets that the machine may not have; of an inline function that several files
  // share the linker keeps any one copy. Only headers that bring types and constexpr functions are safe.
  const std::set<std::string> safe = {"arm_neon.h", "array",       "cstddef",     "cstdint",
                                      "cstring",    "immintrin.h", "string_view", "utility"};
  // Types, and functions of the C library, which are not inline. Those that stand for a constant have functions, which
  // a kernel calls in constant expressions alone: the compiler emits none.
  const std::set<std::string> known = {"int32_t",   "int64_t",    "integer_sequence", "make_integer_sequence",
                                       "memcpy",    "memset",     "size_t",           "uint32_t",
                                       "uint64_t",  "uintptr_t",  "ptrdiff_t",        "integral_constant",
                                       "true_type", "false_type", "uint8_t"};
  std::size_t kernels = 0;
  for (const fs::path& source : sources("ops/cpu")) {
    if (source.extension() != ".cpp") continue;
    ++kernels;
    std::vector<fs::path> pending{source};
    std::set<fs::path> seen{source};
    while (!pending.empty()) {
      const Includes includes = includes_of(pending.back());
      const fs::path from = pending.back();
      pending.pop_back();
      for (const std::string& header : includes.system) {
        EXPECT_TRUE(safe.contains(header)) << source << " gets <" << header << "> from " << from;
      }
      for (const std::string& header : includes.rooted) {
        if (seen.insert(header).second) pending.push_back(header);
      }
      if (folder_of(from) != "ops") continue;
      const std::string code = code_of(from);
      for (const std::string& name : standard_names(code)) {
        EXPECT_TRUE(known.contains(name)) << from << " uses std::" << name;
      }
    }
  }
  EXPECT_GE(kernels, 10U);
}

}  // namespace
}  // namespace palimpsest
