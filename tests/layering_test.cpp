// Who may include whom, and who may know what: read from the sources themselves.

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <regex>
#include <set>
#include <string>
#include <vector>

namespace palimpsest {
namespace {

namespace fs = std::filesystem;

const fs::path root = PALIMPSEST_SOURCE_ROOT;

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
  std::vector<std::string> quoted;     // of this project, from its root
  std::vector<std::string> bracketed;  // of the system
};

Includes includes_of(const fs::path& source) {
  static const std::regex line(R"re((^|\n)[ \t]*#[ \t]*include[ \t]*([<"])([^>"]+)[>"])re");
  Includes includes;
  const std::string text = read(root / source);
  for (std::sregex_iterator match(text.begin(), text.end(), line), end; match != end; ++match) {
    ((*match)[2] == "\"" ? includes.quoted : includes.bracketed).push_back((*match)[3]);
  }
  return includes;
}

/// The text without comments.
std::string code_of(const fs::path& source) {
  static const std::regex comment(R"re(//[^\n]*|/\*[^*]*\*+([^/*][^*]*\*+)*/)re");
  return std::regex_replace(read(root / source), comment, "");
}

std::string folder_of(const fs::path& path) { return path.begin()->string(); }

/// Where a quoted header lies: from the root or, without a folder, beside the file that includes it.
fs::path resolved(const std::string& header, const fs::path& from) {
  return header.find('/') == std::string::npos ? from.parent_path() / header : fs::path(header);
}

// What each folder may include. ops and memory do not know each other: what the tape asks of a policy is an interface
// in autograd.
const std::map<std::string, std::set<std::string>> allowed = {
    {"core", {"core"}},
    {"autograd", {"core", "autograd"}},
    {"ops", {"core", "autograd", "ops"}},
    {"memory", {"core", "autograd", "memory"}},
    {"nn", {"core", "autograd", "ops", "memory", "nn"}},
    {"datasets", {"core", "datasets"}},
    {"examples", {"core", "autograd", "ops", "memory", "nn", "datasets", "examples"}},
    {"bench", {"core", "autograd", "ops", "memory", "nn", "datasets", "bench", "tests"}},
    {"tests", {"core", "autograd", "ops", "memory", "nn", "datasets", "examples", "tests"}},
};

TEST(Layering, EveryFolderIncludesOnlyWhatItMay) {
  for (const auto& [folder, may] : allowed) {
    for (const fs::path& source : sources(folder)) {
      for (const std::string& header : includes_of(source).quoted) {
        EXPECT_TRUE(may.contains(folder_of(resolved(header, source)))) << source << " includes " << header;
      }
    }
  }
}

TEST(Layering, HeadersOfTheProjectAreQuoted) {
  std::size_t headers = 0;
  for (const auto& [folder, may] : allowed) {
    for (const fs::path& source : sources(folder)) {
      for (const std::string& header : includes_of(source).quoted) {
        EXPECT_TRUE(fs::exists(root / resolved(header, source))) << source << " includes " << header;
        ++headers;
      }
    }
  }
  EXPECT_GT(headers, 200U);  // the test does find them
}

TEST(Layering, HeadersAreIncludedOnce) {
  for (const auto& [folder, may] : allowed) {
    for (const fs::path& source : sources(folder)) {
      if (source.extension() != ".hpp") continue;
      EXPECT_TRUE(read(root / source).starts_with("#pragma once\n")) << source;
    }
  }
}

TEST(Layering, ModelsAndOpsNameNoPolicy) {
  const std::regex policy(R"re(\bmemory\s*::|\b(store_all|shared|checkpoint|reversible)\s*\(|"(store-all|shared|)re"
                          R"re(checkpoint|reversible)")re");
  for (const char* folder : {"ops", "nn"}) {
    for (const fs::path& source : sources(folder)) {
      const std::string code = code_of(source);
      std::string found;
      for (std::sregex_iterator match(code.begin(), code.end(), policy), end; match != end; ++match)
        found += match->str();
      // A block's policy before anybody has chosen one.
      EXPECT_EQ(found, source == "nn/block.hpp" ? "memory::store_all(" : "") << source;
      if (source == "nn/block.hpp") continue;
      for (const std::string& header : includes_of(source).quoted) EXPECT_NE(folder_of(header), "memory") << source;
    }
  }
}

TEST(Layering, KernelsInstantiateNothingThatOtherFilesShare) {
  // Kernels are compiled for instruction sets that the machine may not have; of an inline function that several files
  // share the linker keeps any one copy. Only headers that bring types and constexpr functions are safe.
  const std::set<std::string> safe = {"array",       "cstddef",     "cstdint", "cstring",
                                      "immintrin.h", "string_view", "utility"};
  // Types, and functions of the C library, which are not inline.
  const std::set<std::string> known = {"int32_t",  "int64_t",   "integer_sequence", "make_integer_sequence",
                                       "memcpy",   "memset",    "size_t",           "uint32_t",
                                       "uint64_t", "uintptr_t", "ptrdiff_t"};
  const std::regex name(R"re(\bstd\s*::\s*(\w+))re");
  std::size_t kernels = 0;
  for (const fs::path& source : sources("ops")) {
    if (!source.filename().string().ends_with("_cpu.cpp")) continue;
    ++kernels;
    std::vector<fs::path> pending{source};
    std::set<fs::path> seen{source};
    while (!pending.empty()) {
      const Includes includes = includes_of(pending.back());
      const fs::path from = pending.back();
      pending.pop_back();
      for (const std::string& header : includes.bracketed) {
        EXPECT_TRUE(safe.contains(header)) << source << " gets <" << header << "> from " << from;
      }
      for (const std::string& header : includes.quoted) {
        if (seen.insert(header).second) pending.push_back(header);
      }
      if (folder_of(from) != "ops") continue;
      const std::string code = code_of(from);
      for (std::sregex_iterator match(code.begin(), code.end(), name), end; match != end; ++match) {
        EXPECT_TRUE(known.contains((*match)[1])) << from << " uses " << match->str();
      }
    }
  }
  EXPECT_GE(kernels, 10U);
}

}  // namespace
}  // namespace palimpsest
