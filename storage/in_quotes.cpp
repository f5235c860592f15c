#include <palimpsest/storage/in_quotes.hpp>

namespace palimpsest::storage {

std::string in_quotes(std::string_view name) {
  constexpr std::size_t most = 200;
  std::string text = "\"";
  for (const char c : name.substr(0, most)) {
    const auto code = static_cast<unsigned char>(c);
    const bool control = code < 0x20 || code == 0x7F;
    if (c == '"' || c == '\\') text += '\\';
    text += control ? '?' : c;
  }
  return text + (name.size() > most ? "...\"" : "\"");
}

}  // namespace palimpsest::storage
