// What a dump is read with: valid UTF-8, and XML's own entities.
#include <cstdint>
#include <cstring>
#include <string_view>

#include "export.h"

using std::string_view;

// 1 for valid UTF-8, as Python reads it: the shortest forms alone, no surrogates, nothing beyond U+10FFFF.
EXPORT int32_t yanmo_utf8(const char* text, int64_t size) {
  const auto* at = reinterpret_cast<const unsigned char*>(text);
  const unsigned char* const end = at + size;
  while (at < end) {
    uint64_t eight;
    if (end - at >= 8) {
      std::memcpy(&eight, at, 8);
      if ((eight & 0x8080808080808080u) == 0) {
        at += 8;
        continue;
      }
    }
    const unsigned char c = *at++;
    if (c < 0x80) continue;
    const int more = c >= 0xF0 ? 3 : c >= 0xE0 ? 2 : 1;
    if (c < 0xC2 || c > 0xF4 || end - at < more) return 0;
    const unsigned char low = c == 0xE0 ? 0xA0 : c == 0xF0 ? 0x90 : 0x80, high = c == 0xED ? 0x9F : c == 0xF4 ? 0x8F : 0xBF;
    if (at[0] < low || at[0] > high) return 0;
    for (int i = 1; i < more; ++i)
      if ((at[i] & 0xC0) != 0x80) return 0;
    at += more;
  }
  return 1;
}

// XML's own entities resolved: the bytes written to `out`, which has room for as many as are given; -1 where another
// entity stands, a number among them.
EXPORT int64_t yanmo_xml_text(const char* text, int64_t size, char* out) {
  const char* const end = text + size;
  char* to = out;
  while (text < end) {
    const auto* found = static_cast<const char*>(std::memchr(text, '&', static_cast<size_t>(end - text)));
    const char* const stop = found == nullptr ? end : found;
    std::memcpy(to, text, static_cast<size_t>(stop - text));
    to += stop - text;
    text = stop;
    if (text == end) break;
    const string_view rest(text, static_cast<size_t>(end - text));
    if (rest.substr(0, 4) == "&lt;") {
      *to++ = '<', text += 4;
    } else if (rest.substr(0, 4) == "&gt;") {
      *to++ = '>', text += 4;
    } else if (rest.substr(0, 6) == "&quot;") {
      *to++ = '"', text += 6;
    } else if (rest.substr(0, 5) == "&amp;") {
      *to++ = '&', text += 5;
    } else {
      return -1;
    }
  }
  return to - out;
}
