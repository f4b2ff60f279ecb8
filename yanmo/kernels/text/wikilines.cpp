// Marks that go, entities, and the lines that are left (_tidy of yanmo/corpus/wikitext.py).
#include <algorithm>

#include "wiki.h"

namespace yanmo_text {

void replace_all(string* text, string* spare, View what, View with) {
  if (text->find(what) == string::npos) return;
  spare->clear();
  size_t at = 0, found;
  while ((found = text->find(what, at)) != string::npos) {
    spare->append(*text, at, found - at);
    *spare += with;
    at = found + what.size();
  }
  spare->append(*text, at, string::npos);
  text->swap(*spare);
}

static bool is_block(View name) {
  for (const char* known : {"p", "div", "li", "ul", "ol", "dd", "dt", "dl", "tr", "blockquote", "center"})
    if (same(name, known)) return true;
  return false;
}

// <br …> and the tags of blocks become line ends; then all tags go.
void tags(string* text, string* spare) {
  for (const bool blocks : {true, false}) {
    spare->clear();
    size_t at = 0, from = 0;
    while ((from = text->find('<', from)) != string::npos) {
      const size_t start = from++;
      const View all(*text);
      size_t name = start + 1 + (all.substr(start + 1, 1) == "/");
      bool wanted;
      if (!blocks) {
        wanted = name < all.size() && is_letter(all[name]);
      } else if (all.size() - start > 2 && same(all.substr(start + 1, 2), "br")) {
        wanted = true;
        name = start + 3;
      } else {
        const size_t end = word_end(*text, name);
        wanted = is_block(all.substr(name, end - name));
        name = end;
      }
      const size_t close = wanted ? tag_end(*text, name) : string::npos;
      if (close == string::npos) continue;
      spare->append(*text, at, start - at);
      if (blocks) *spare += '\n';
      at = from = close + 1;
    }
    spare->append(*text, at, string::npos);
    text->swap(*spare);
  }
}

// '' to ''''': bold and italics go; four are an apostrophe and bold.
void quotes(string* text, string* spare) {
  spare->clear();
  size_t at = 0, from = 0;
  while ((from = text->find("''", from)) != string::npos) {
    size_t end = from + 2;
    while (end < text->size() && end - from < 5 && (*text)[end] == '\'') ++end;
    spare->append(*text, at, from - at);
    if (end - from == 4) *spare += '\'';
    at = from = end;
  }
  spare->append(*text, at, string::npos);
  text->swap(*spare);
}

// __WORD__ of three to twenty letters.
void Wiki::magic(string* text) {
  spare_.clear();
  size_t at = 0, from = 0;
  while ((from = text->find("__", from)) != string::npos) {
    size_t end = from + 2;
    bool ascii = true;
    while (end < text->size() && (is_letter((*text)[end]) || static_cast<unsigned char>((*text)[end]) >= 128))
      ascii = static_cast<unsigned char>((*text)[end++]) < 128 && ascii;
    const View inside = View(*text).substr(from + 2, end - from - 2);
    const bool closed = text->compare(end, 2, "__") == 0;
    const bool word = ascii ? inside.size() >= 3 && inside.size() <= 20
                            : inside.size() <= 80 && closed && ask(kMagic, inside).number != 0;
    if (!closed || !word) {
      from += 1;
      continue;
    }
    spare_.append(*text, at, from - at);
    at = from = end + 2;
  }
  spare_.append(*text, at, string::npos);
  text->swap(spare_);
}

// Brackets that found no partner.
void leftovers(string* text, string* spare) {
  spare->clear();
  const string& given = *text;
  size_t at = 0, from = 0;
  while ((from = given.find_first_of("{}[]-", from)) != string::npos) {
    const char c = given[from], next = from + 1 < given.size() ? given[from + 1] : '\0';
    size_t end = from;
    if ((c == '{' && next == '{') || (c == '}' && next == '}')) {
      while (end < given.size() && given[end] == c) ++end;
    } else if ((c == '[' && next == '[') || (c == ']' && next == ']') || (c == '-' && next == '{') ||
               (c == '}' && next == '-')) {
      end = from + 2;
    } else {
      ++from;
      continue;
    }
    spare->append(given, at, from - at);
    at = from = end;
  }
  spare->append(given, at, string::npos);
  text->swap(*spare);
}

// Entities of HTML, as html.unescape finds them: &(#[0-9]+;?|#[xX][0-9a-fA-F]+;?|[^\t\n\f <&#;]{1,32};?)
void Wiki::entities(string* text) {
  spare_.clear();
  const string& given = *text;
  size_t at = 0, from = 0;
  while ((from = given.find('&', from)) != string::npos) {
    size_t end = from + 1;
    if (end < given.size() && given[end] == '#') {
      const bool hex = end + 1 < given.size() && (given[end + 1] == 'x' || given[end + 1] == 'X');
      end += hex ? 2 : 1;
      const size_t begin = end;
      while (end < given.size() && (hex ? is_hex(given[end]) : is_digit(given[end]))) ++end;
      if (end == begin) end = from;
    } else {
      const size_t begin = end;
      int characters = 0;
      while (end < given.size() && characters < 32 && View("\t\n\f <&#;").find(given[end]) == View::npos) {
        ++end;
        while (end < given.size() && (given[end] & 0xC0) == 0x80) ++end;
        ++characters;
      }
      if (end == begin) end = from;
    }
    if (end == from) {
      ++from;
      continue;
    }
    if (end < given.size() && given[end] == ';') ++end;
    spare_.append(given, at, from - at);
    spare_ += told(kEntity, View(given).substr(from, end - from));
    at = from = end;
  }
  spare_.append(given, at, string::npos);
  text->swap(spare_);
}

// The length of a character that stands in empty brackets: space, comma, semicolon, colon, also the wide ones; or 0.
static size_t hollow(View text, size_t at) {
  const char c = text[at];
  if (c == ',' || c == ';' || c == ':') return 1;
  const View three = text.substr(at, 3);
  if (three == "、" || three == "，" || three == "；" || three == "：") return 3;
  return space_at(text, at);
}

// Brackets with nothing in them go, with a space before them.
static void empty_brackets(string* text, string* spare, View open) {
  spare->clear();
  size_t at = 0, from = 0;
  const View all(*text);
  while ((from = all.find(open, from)) != View::npos) {
    size_t end = from + open.size();
    while (end < all.size()) {
      const size_t step = hollow(all, end);
      if (step == 0) break;
      end += step;
    }
    const size_t close = all.substr(end, 1) == ")" ? 1 : all.substr(end, 3) == "）" ? 3 : 0;
    if (close == 0) {
      from += open.size();
      continue;
    }
    spare->append(*text, at, from - at);
    *spare += "\xEE\x80\x82";  // U+E002: see tidy
    at = from = end + close;
  }
  spare->append(*text, at, string::npos);
  text->swap(*spare);
}

static void marked(char mark, View rest, string* to) {
  *to += '\n';
  if (mark == '=') {
    const size_t equals = std::min(rest.find_first_not_of('='), rest.size());
    const size_t from = rest.find_first_not_of("= \t"), last = rest.find_last_not_of("= \t");
    const View bare = strip_right(rest);
    if (from != View::npos && !bare.empty() && bare.back() == '=') {
      *to += '\n';
      to->append(std::min<size_t>(equals + 1, 6), '#');
      ((*to += ' ') += rest.substr(from, last - from + 1)) += '\n';
    } else {
      (*to += mark) += rest;
    }
    return;
  }
  const size_t from = rest.find_first_not_of("*#:; \t");
  if (from == View::npos) return;
  const size_t marks = rest.find_first_not_of("*#:;") + 1;  // with the first one
  const char last = marks > 1 ? rest[marks - 2] : mark;
  if (last != ':' && last != ';') {
    to->append(2 * (marks - 1), ' ');
    *to += last == '*' ? "- " : "1. ";
  }
  *to += rest.substr(from);
}

// Spaces, lines, headings, lists; a heading with nothing below it goes.
void Wiki::tidy(string* text) {
  for (const char* space : {"\t", "\xC2\xA0", "\xE2\x80\x89", "\xE2\x80\x8B"}) replace_all(text, &spare_, space, " ");
  spare_.assign("\n");  // one space for many, and none at the ends of lines
  for (const char c : *text) {
    if (c == ' ' && (spare_.back() == ' ' || (spare_.back() == '\n' && spare_.size() > 1))) continue;
    if (c == '\n' && spare_.back() == ' ' ) spare_.pop_back();
    spare_ += c;
  }
  text->swap(spare_);
  empty_brackets(text, &spare_, "(");
  empty_brackets(text, &spare_, "（");
  replace_all(text, &spare_, " \xEE\x80\x82", "");
  replace_all(text, &spare_, "\xEE\x80\x82", "");
  spare_.clear();
  View left(*text);
  while (true) {  // lines of four dashes and more lose them
    const size_t end = left.find("\n----");
    spare_ += left.substr(0, end);
    if (end == View::npos) break;
    spare_ += '\n';
    left.remove_prefix(end + 1);
    left.remove_prefix(std::min(left.find_first_not_of('-'), left.size()));
  }
  text->swap(spare_);
  spare_.clear();
  size_t at = 0, from = 0;
  while ((from = text->find('\n', from)) != string::npos) {
    const char mark = from + 1 < text->size() ? (*text)[from + 1] : '\0';
    if (View("=*#:;").find(mark) == View::npos) {
      ++from;
      continue;
    }
    const size_t end = std::min(text->find('\n', from + 1), text->size());
    spare_.append(*text, at, from - at);
    marked(mark, View(*text).substr(from + 2, end - from - 2), &spare_);
    at = from = end;
  }
  spare_.append(*text, at, string::npos);
  text->clear();
  int lines = 0;
  for (const char c : spare_) {
    lines = c == '\n' ? lines + 1 : 0;
    if (lines <= 2) *text += c;
  }
  const View whole = strip(*text);
  if (whole.substr(0, 1) != "#" && whole.find("\n#") == View::npos) {
    spare_.assign(whole);
    text->swap(spare_);
    return;
  }
  std::vector<View> parts, kept;
  for (View rest = whole;;) {
    const size_t end = rest.find("\n\n");
    parts.push_back(rest.substr(0, end));
    if (end == View::npos) break;
    rest.remove_prefix(end + 2);
  }
  size_t below = 0;  // the level of the heading that follows; 7 is text
  for (auto part = parts.rbegin(); part != parts.rend(); ++part) {
    View found = *part;
    while (!found.empty() && found.front() == '\n') found.remove_prefix(1);
    while (!found.empty() && found.back() == '\n') found.remove_suffix(1);
    const bool heading = !found.empty() && found[0] == '#' && found.find('\n') == View::npos;
    const size_t level = heading ? std::min(found.find_first_not_of('#'), found.size()) : 7;
    if ((level < 7 && below <= level) || found.empty()) continue;
    kept.push_back(found);
    below = level;
  }
  spare_.clear();
  for (auto part = kept.rbegin(); part != kept.rend(); ++part) (spare_ += spare_.empty() ? "" : "\n\n") += *part;
  text->swap(spare_);
}

}  // namespace yanmo_text
