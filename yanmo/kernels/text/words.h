// Where the next word of a text ends: the two regular expressions by which byte-level vocabularies cut texts.
//
//   0  GPT-2      's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
//   1  followers  (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,k}| ?[^\s\p{L}\p{N}]+[\r\n]*
//                 |\s*[\r\n]+|\s+(?!\S)|\s+
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

namespace yanmo_text {

enum Class : uint8_t { kOther = 0, kLetter = 1, kNumber = 2, kSpace = 4, kNewline = 8, kUnsafe = 128 };

struct Scanner {
  const uint8_t* classes;
  const std::vector<std::pair<uint32_t, uint8_t>>& folds;
  int32_t style, digits;

  struct Char {
    uint32_t code;
    int32_t length;
    uint8_t kind;
  };

  // The character at `at`, which must lie before the end of valid UTF-8.
  Char look(const uint8_t* text, int64_t at) const {
    const uint8_t* p = text + at;
    uint32_t code = p[0];
    int32_t length = 1;
    if (code >= 0xF0) {
      code = (code & 7u) << 18 | (p[1] & 63u) << 12 | (p[2] & 63u) << 6 | (p[3] & 63u);
      length = 4;
    } else if (code >= 0xE0) {
      code = (code & 15u) << 12 | (p[1] & 63u) << 6 | (p[2] & 63u);
      length = 3;
    } else if (code >= 0xC0) {
      code = (code & 31u) << 6 | (p[1] & 63u);
      length = 2;
    }
    return Char{code, length, classes[code]};
  }

  // The end of a run of characters whose classes, of those in `mask`, are `wanted`; -1 at an unsafe one.
  int64_t run(const uint8_t* text, int64_t at, int64_t n, uint8_t mask, uint8_t wanted) const {
    while (at < n) {
      const Char c = look(text, at);
      if (c.kind & kUnsafe) return -1;
      if ((c.kind & mask) != wanted) break;
      at += c.length;
    }
    return at;
  }

  // The end of the word that begins at `at` < n; -1 where an unsafe character is met.
  int64_t next(const uint8_t* text, int64_t at, int64_t n) const {
    const Char c = look(text, at);
    if (c.kind & kUnsafe) return -1;
    if (c.code == '\'') {
      const int64_t end = contraction(text, at + 1, n);
      if (end != 0) return end;
    }
    return style == 0 ? gpt2(c, text, at, n) : follower(c, text, at, n);
  }

  static constexpr uint8_t kWordly = kLetter | kNumber | kSpace;

  int64_t gpt2(Char c, const uint8_t* text, int64_t at, int64_t n) const {
    int64_t from = at;
    Char first = c;
    if (c.code == ' ' && at + 1 < n) {
      from = at + 1;
      first = look(text, from);
      if (first.kind & kUnsafe) return -1;
    }
    const uint8_t kind = first.kind & kWordly;
    if (!(kind & kSpace)) return run(text, from + first.length, n, kWordly, kind);
    return spaces(c, text, at, n, false);
  }

  int64_t follower(Char c, const uint8_t* text, int64_t at, int64_t n) const {
    const int64_t after = at + c.length;
    if (c.kind & kLetter) return run(text, after, n, kLetter, kLetter);
    if (c.kind & kNumber) {
      int64_t end = after;
      for (int32_t i = 1; i < digits && end < n; ++i) {
        const Char d = look(text, end);
        if (d.kind & kUnsafe) return -1;
        if (!(d.kind & kNumber)) break;
        end += d.length;
      }
      return end;
    }
    Char second{0, 0, kSpace};
    if (after < n) {
      second = look(text, after);
      if (second.kind & kUnsafe) return -1;
    }
    if (!(c.kind & kNewline) && after < n && (second.kind & kLetter)) return run(text, after, n, kLetter, kLetter);
    const bool blank = c.code == ' ' && after < n && !(second.kind & kWordly);
    if (blank || !(c.kind & kWordly)) {
      const int64_t end = run(text, after, n, kWordly, 0);
      return end < 0 ? end : run(text, end, n, kNewline, kNewline);
    }
    return spaces(c, text, at, n, true);
  }

  // A run of white space: up to its last line end where `lines`, else without its last character if a word follows.
  int64_t spaces(Char c, const uint8_t* text, int64_t at, int64_t n, bool lines) const {
    int64_t end = at, last = at, line = 0;
    while (end < n) {
      c = look(text, end);
      if (c.kind & kUnsafe) return -1;
      if (!(c.kind & kSpace)) break;
      last = end;
      end += c.length;
      if (c.kind & kNewline) line = end;
    }
    if (lines && line > 0) return line;
    return end == n || last == at ? end : last;
  }

  // The end of 's 't 'm 'd 're 've 'll from the letter on, or 0.
  int64_t contraction(const uint8_t* text, int64_t at, int64_t n) const {
    int32_t length = 0;
    const uint8_t first = letter(text, at, n, &length);
    if (first == 's' || first == 't' || first == 'm' || first == 'd') return at + length;
    if (first != 'r' && first != 'v' && first != 'l') return 0;
    at += length;
    return letter(text, at, n, &length) == (first == 'l' ? 'l' : 'e') ? at + length : 0;
  }

  // The small ASCII letter that a character counts as there, or 0.
  uint8_t letter(const uint8_t* text, int64_t at, int64_t n, int32_t* length) const {
    if (at >= n) return 0;
    const Char c = look(text, at);
    *length = c.length;
    if (c.kind & kUnsafe) return 0;
    if (c.code < 128) {
      const bool capital = style != 0 && c.code >= 'A' && c.code <= 'Z';
      return static_cast<uint8_t>(capital ? c.code + 32 : c.code);
    }
    if (style == 0) return 0;
    for (const auto& fold : folds)
      if (fold.first == c.code) return fold.second;
    return 0;
  }
};

}  // namespace yanmo_text
