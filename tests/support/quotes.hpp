#pragma once

// Pages of the documentation whose code is quoted from sources that are compiled.

#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <iterator>
#include <sstream>
#include <string>
#include <vector>

#include "tests/support/source_root.hpp"

namespace palimpsest::test {

/// A file of the source tree.
inline std::string source_text(const std::string& path) {
  std::ifstream in(source_root() + "/" + path);
  EXPECT_TRUE(in) << path;
  return {std::istreambuf_iterator<char>(in), {}};
}

/// A text's lines without indentation, so that a quotation may be set to the left.
inline std::vector<std::string> trimmed_lines(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) {
    const std::size_t first = line.find_first_not_of(' ');
    lines.push_back(first == std::string::npos ? "" : line.substr(first));
  }
  return lines;
}

/// Expects that each of the page's C++ blocks, at least so many, stands in one of the sources.
inline void expect_quoted(const std::string& page, const std::vector<std::string>& sources, std::size_t at_least) {
  std::vector<std::vector<std::string>> texts;
  for (const std::string& path : sources) texts.push_back(trimmed_lines(source_text(path)));
  const std::string text = source_text(page);
  const std::string begin = "```cpp\n";
  std::size_t blocks = 0;
  for (std::size_t at = text.find(begin); at != std::string::npos; at = text.find(begin, at)) {
    at += begin.size();
    const std::size_t end = text.find("```", at);
    ASSERT_NE(end, std::string::npos);
    const std::vector<std::string> block = trimmed_lines(text.substr(at, end - at));
    const auto quotes = [&](const auto& source) {
      return std::search(source.begin(), source.end(), block.begin(), block.end()) != source.end();
    };
    EXPECT_TRUE(std::any_of(texts.begin(), texts.end(), quotes)) << "not in the sources:\n"
                                                                 << text.substr(at, end - at);
    at = end;
    ++blocks;
  }
  EXPECT_GE(blocks, at_least);
}

}  // namespace palimpsest::test
