// Letters and spaces of UTF-8, as Python's str and re see them.
#pragma once

#include <string_view>

namespace yanmo_text {

inline bool is_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }
inline bool is_digit(char c) { return c >= '0' && c <= '9'; }
inline bool is_hex(char c) { return is_digit(c) || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F'); }
inline bool is_word(char c) { return is_letter(c) || is_digit(c) || c == '_'; }
inline bool is_ascii_space(char c) { return c == ' ' || (c >= 9 && c <= 13) || (c >= 28 && c <= 31); }

// Whether a text is a name in small ASCII letters, in any case.
inline bool same(std::string_view text, std::string_view name) {
  if (text.size() != name.size()) return false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if ((c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c) != name[i]) return false;
  }
  return true;
}

// The bytes of the white space that begins at a place, or 0.
inline size_t space_at(std::string_view text, size_t at) {
  const auto c = static_cast<unsigned char>(text[at]);
  if (c < 128) return is_ascii_space(text[at]) ? 1 : 0;
  if (c == 0xC2) return text.substr(at, 2) == "\xC2\x85" || text.substr(at, 2) == "\xC2\xA0" ? 2 : 0;
  if (c < 0xE1 || c > 0xE3) return 0;
  const std::string_view three = text.substr(at, 3);
  if (c == 0xE1) return three == "\xE1\x9A\x80" ? 3 : 0;
  if (c == 0xE3) return three == "\xE3\x80\x80" ? 3 : 0;
  if (three.size() < 3) return 0;
  const auto second = static_cast<unsigned char>(three[1]), third = static_cast<unsigned char>(three[2]);
  if (second == 0x80) return third <= 0x8A || third == 0xA8 || third == 0xA9 || third == 0xAF ? 3 : 0;
  return second == 0x81 && third == 0x9F ? 3 : 0;
}

inline std::string_view strip_right(std::string_view text) {
  while (!text.empty()) {
    size_t last = text.size() - 1;
    while (last > 0 && (text[last] & 0xC0) == 0x80) --last;
    if (space_at(text, last) == 0) break;
    text.remove_suffix(text.size() - last);
  }
  return text;
}

inline std::string_view strip(std::string_view text) {
  while (!text.empty()) {
    const size_t step = space_at(text, 0);
    if (step == 0) break;
    text.remove_prefix(step);
  }
  return strip_right(text);
}

}  // namespace yanmo_text
