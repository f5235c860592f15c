#include <palimpsest/reports/html_page.hpp>

#include <palimpsest/core/error.hpp>

namespace palimpsest::reports {
namespace {

/// JSON that can stand in a script element: "<" occurs in strings alone, and there it can be written otherwise.
std::string for_script(const std::string& data) {
  std::string text;
  for (const char letter : data) {
    if (letter == '<') {
      text += "\\u003c";
    } else {
      text += letter;
    }
  }
  return text;
}

std::string for_html(std::string_view plain) {
  std::string text;
  for (const char letter : plain) {
    if (letter == '<') {
      text += "&lt;";
    } else if (letter == '&') {
      text += "&amp;";
    } else {
      text += letter;
    }
  }
  return text;
}

std::string with(std::string page, std::string_view placeholder, const std::string& text) {
  const std::size_t at = page.find(placeholder);
  if (at == std::string::npos) throw Error(concat_text("a page of a report has no ", placeholder));
  return page.replace(at, placeholder.size(), text);
}

}  // namespace

std::string html_page(std::string_view page, std::string_view title, const std::string& data) {
  return with(with(std::string(page), "@TITLE@", for_html(title)), "@DATA@", for_script(data));
}

}  // namespace palimpsest::reports
