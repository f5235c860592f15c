#pragma once

#include <string>
#include <string_view>

namespace palimpsest::reports {

/// A page of HTML that carries its data: `page` with the plain text `title` for @TITLE@ and the JSON `data` for @DATA@.
/// Throws Error if it lacks one of the two.
std::string html_page(std::string_view page, std::string_view title, const std::string& data);

}  // namespace palimpsest::reports
