#pragma once

#include <string_view>

namespace palimpsest::harness {

/// The page that memory_report_html() fills in: page/memory_report.html with its style sheet and scripts, put together
/// by page/embed.py when the program is built.
extern const std::string_view memory_report_page;

}  // namespace palimpsest::harness
