// Wikitext -> plain text, step by step as yanmo/corpus/wikitext.py does it, on UTF-8.
//
// What a name means (of a template, a namespace, an entity) is asked of Python once and kept, so that the words of all
// languages, their letter cases and their tables stand in one place. The text must be valid UTF-8.
#include <cstring>
#include <new>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "bpe.h"
#include "utf8.h"

namespace yanmo_text {
namespace {

using std::string;
using std::string_view;
using View = string_view;

// The questions; the numbers are those of yanmo/corpus/wikinative.py.
enum Ask { kTemplate = 0, kPrefix = 1, kNamed = 2, kMagic = 3, kVariant = 4, kEntity = 5, kAside = 6, kDisambiguation = 7 };
// What a template is: its kind in the low bits, the number of a fixed text above them.
enum Kind { kNone = 0, kFirst = 1, kLast = 2, kConvert = 3, kDate = 4 };
enum Prefix { kShown = 0, kHidden = 1, kLanguage = 2 };

constexpr int kDepth = 12, kLinkDepth = 4;
constexpr size_t kMemory = 200000;  // answers that are kept

using Callback = int64_t (*)(int32_t what, const char* text, int64_t size);

struct Answer {
  int64_t number;
  string text;
};

class Wiki {
 public:
  explicit Wiki(Callback callback) : callback_(callback) {}
  string answer;  // set by Python within a callback
  string out;

  void plain(View text, bool tables);
  bool disambiguation(View text);

 private:
  const Answer& ask(int32_t what, View text);
  View told(int32_t what, View text) { return ask(what, text).text; }
  void comments(string* text);
  void elements(string* text);
  bool variants(string* text);
  bool templates(string* text);
  void expand(View body, string* to);
  bool named(View part);
  void external(string* text);
  bool links(string* text);
  void table_lines(string* text, bool keep);
  void entities(string* text);
  void magic(string* text);
  void tidy(string* text);

  Callback callback_;
  std::unordered_map<string, Answer> known_[8];
  string spare_;  // what a pass writes, then takes the place of the text
};

// The answer to a question; kept, except of what is set aside, which has a number of its own each time.
const Answer& Wiki::ask(int32_t what, View text) {
  auto& known = known_[what];
  if (what != kAside) {
    const auto found = known.find(string(text));
    if (found != known.end()) return found->second;
  }
  if (known.size() > kMemory) known.clear();
  answer.clear();
  const int64_t number = callback_(what, text.data(), static_cast<int64_t>(text.size()));
  Answer& kept = known[what == kAside ? string() : string(text)];
  kept = Answer{number, answer};
  return kept;
}

bool holds(const string& text, const char* what) { return text.find(what) != string::npos; }

void Wiki::comments(string* text) {
  spare_.clear();
  size_t at = 0, start;
  while ((start = text->find("<!--", at)) != string::npos) {
    spare_.append(*text, at, start - at);
    const size_t end = text->find("-->", start);
    if (end == string::npos) {
      text->swap(spare_);
      return;
    }
    at = end + 3;
  }
  spare_.append(*text, at, string::npos);
  text->swap(spare_);
}

const std::vector<string> kDropped = {"ref", "references", "gallery", "timeline", "score", "imagemap", "templatedata",
                                      "graph", "mapframe", "maplink", "hiero", "inputbox", "categorytree",
                                      "templatestyles", "indicator", "style", "script", "includeonly"};
const std::vector<string> kKept = {"nowiki", "pre", "syntaxhighlight", "source", "math", "chem", "ce"};

// The place of a name among all of them, or -1.
int element(View name) {
  if (name.size() < 2 || name.size() > 15) return -1;
  int number = 0;
  for (const auto* names : {&kDropped, &kKept})
    for (const string& known : *names) {
      if (same(name, known)) return number;
      ++number;
    }
  return -1;
}

const string& element_name(int number) {
  const int dropped = static_cast<int>(kDropped.size());
  return number < dropped ? kDropped[number] : kKept[number - dropped];
}

// Where "</name" begins, in any case, from `at` on.
size_t end_tag(const string& text, View name, size_t at) {
  while ((at = text.find("</", at)) != string::npos) {
    if (text.size() - at - 2 >= name.size() && same(View(text).substr(at + 2, name.size()), name)) return at;
    at += 2;
  }
  return string::npos;
}

// The end of [^<>]* from `at`, if ">" stands there; else npos.
size_t tag_end(const string& text, size_t at) {
  at = text.find_first_of("<>", at);
  return at != string::npos && text[at] == '>' ? at : string::npos;
}

size_t word_end(const string& text, size_t at) {
  while (at < text.size() && is_word(text[at])) ++at;
  return at;
}

void Wiki::elements(string* given) {
  const string& text = *given;
  string made;
  std::vector<size_t> ends(kDropped.size() + kKept.size(), 0);
  size_t at = 0, from = 0;
  while ((from = text.find('<', from)) != string::npos) {
    const size_t name_end = word_end(text, from + 1);
    const int number = element(View(text).substr(from + 1, name_end - from - 1));
    const size_t close = number < 0 ? string::npos : tag_end(text, name_end);
    if (close == string::npos) {
      ++from;
      continue;
    }
    made.append(text, at, from - at);
    at = from = close + 1;
    if (close > name_end && text[close - 1] == '/') continue;
    if (ends[number] < at) {
      const size_t end = end_tag(text, element_name(number), at);
      ends[number] = end == string::npos ? text.size() + 1 : end;
    }
    const size_t end = ends[number];
    if (end > text.size()) continue;  // never ended: the tag goes, its text stays
    if (number >= static_cast<int>(kDropped.size())) {
      string asked = element_name(number) + " ";
      asked.append(text, at, end - at);
      made += told(kAside, asked);
    }
    const size_t last = text.find('>', end);
    at = from = last == string::npos ? text.size() : last + 1;
  }
  made.append(text, at, string::npos);
  given->swap(made);
}

// -{…}- without braces inside.
bool Wiki::variants(string* text) {
  spare_.clear();
  size_t at = 0, from = 0;
  bool changed = false;
  while ((from = text->find("-{", from)) != string::npos) {
    const size_t end = text->find_first_of("{}", from + 2);
    if (end == string::npos || text->compare(end, 2, "}-") != 0) {
      from += 1;
      continue;
    }
    spare_.append(*text, at, from - at);
    spare_ += told(kVariant, View(*text).substr(from + 2, end - from - 2));
    at = from = end + 2;
    changed = true;
  }
  spare_.append(*text, at, string::npos);
  text->swap(spare_);
  return changed;
}

bool Wiki::templates(string* text) {
  spare_.clear();
  size_t at = 0, from = 0;
  bool changed = false;
  while ((from = text->find("{{", from)) != string::npos) {
    const bool three = text->compare(from, 3, "{{{") == 0;
    const size_t inner = from + (three ? 3 : 2);
    const size_t end = text->find_first_of("{}", inner);
    if (end == string::npos || text->compare(end, three ? 3 : 2, three ? "}}}" : "}}") != 0) {
      from += 1;
      continue;
    }
    spare_.append(*text, at, from - at);
    const View body = View(*text).substr(inner, end - inner);
    if (three) {  // its default
      const size_t bar = body.find('|');
      if (bar != View::npos) spare_ += body.substr(bar + 1);
    } else {
      expand(body, &spare_);
    }
    at = from = end + (three ? 3 : 2);
    changed = true;
  }
  spare_.append(*text, at, string::npos);
  text->swap(spare_);
  return changed;
}

void Wiki::expand(View body, string* to) {
  const size_t bar = body.find('|');
  const Answer& found = ask(kTemplate, body.substr(0, bar));
  if (bar == View::npos || found.number == kNone) {
    *to += found.text;
    return;
  }
  std::vector<View> words;
  View rest = body.substr(bar + 1);
  while (true) {
    const size_t next = rest.find('|');
    View part = strip(rest.substr(0, next));
    if (part.substr(0, 2) == "1=") part.remove_prefix(2);
    if (!named(part)) words.push_back(part);
    if (next == View::npos) break;
    rest.remove_prefix(next + 1);
  }
  if (words.empty()) return;
  auto join = [&](size_t count) {
    for (size_t i = 0; i < count && i < words.size(); ++i) (*to += i ? " " : "") += words[i];
  };
  if (found.number == kDate) {
    join(words.size());
  } else if (found.number == kConvert) {
    if (words.size() >= 4 && (words[1] == "-" || words[1] == "–")) {
      ((((*to += words[0]) += "–") += words[2]) += " ") += words[3];
    } else if (words.size() >= 4 && (words[1] == "to" || words[1] == "and" || words[1] == "x" || words[1] == "by" ||
                                     words[1] == "or")) {
      join(4);
    } else {
      join(2);
    }
  } else {
    *to += found.number == kLast ? words.back() : words.front();
  }
}

// [\w\s-]{1,30}= at the beginning.
bool Wiki::named(View part) {
  for (size_t at = 0; at < part.size(); ++at) {
    const char c = part[at];
    if (c == '=') return at > 0 && at <= 30;
    if (static_cast<unsigned char>(c) >= 128) {
      const size_t equals = part.find('=', at);
      if (equals == View::npos || equals > 130) return false;
      return ask(kNamed, part.substr(0, equals + 1)).number != 0;
    }
    if (!is_word(c) && c != '-' && !is_ascii_space(c)) return false;
  }
  return false;
}

void Wiki::external(string* text) {
  spare_.clear();
  size_t at = 0, from = 0;
  const View all(*text);
  while ((from = text->find('[', from)) != string::npos) {
    const size_t start = from++;
    size_t url = 0;
    for (const char* scheme : {"https:", "http:", "ftp:", "mailto:", "//"}) {
      const size_t size = std::strlen(scheme);
      if (all.size() - start - 1 >= size && same(all.substr(start + 1, size), scheme)) {
        url = start + 1 + size;
        break;
      }
    }
    if (url == 0) continue;
    View label;
    size_t end = url;
    while (end < all.size() && all[end] != '[' && all[end] != ']' && space_at(all, end) == 0) ++end;
    if (end < all.size() && all[end] != '[' && all[end] != ']' && all[end] != '\n') {
      const size_t begin = end + space_at(all, end);
      end = begin;
      while (end < all.size() && all[end] != '[' && all[end] != ']' && all[end] != '\n') ++end;
      label = all.substr(begin, end - begin);
    }
    if (end >= all.size() || all[end] != ']') continue;
    spare_.append(*text, at, start - at);
    spare_ += label;
    at = from = end + 1;
  }
  spare_.append(*text, at, string::npos);
  text->swap(spare_);
}

bool Wiki::links(string* text) {
  spare_.clear();
  size_t at = 0, from = 0;
  bool changed = false;
  const View all(*text);
  while ((from = text->find("[[", from)) != string::npos) {
    size_t end = text->find_first_of("[]|", from + 2);
    if (end == string::npos) break;
    const View target = all.substr(from + 2, end - from - 2);
    View shown;
    const bool bar = all[end] == '|';
    if (bar) {
      const size_t begin = end + 1;
      end = text->find_first_of("[]", begin);
      if (end == string::npos) break;
      shown = all.substr(begin, end - begin);
    }
    if (all.substr(end, 2) != "]]") {
      from += 1;
      continue;
    }
    spare_.append(*text, at, from - at);
    const size_t colon = target.find(':');
    const View rest = colon == View::npos ? View() : target.substr(colon + 1);
    at = from = end + 2;
    changed = true;
    if (colon != View::npos) {
      const View prefix = strip(target.substr(0, colon));
      if (prefix.empty()) {  // a colon in front makes a link of what would hide
        spare_ += bar ? shown : rest;
        continue;
      }
      const int64_t kind = ask(kPrefix, prefix).number;
      if (kind == kHidden || (!bar && kind == kLanguage)) continue;
    }
    spare_ += !bar ? target : !shown.empty() ? shown : !rest.empty() ? rest : target;
  }
  spare_.append(*text, at, string::npos);
  text->swap(spare_);
  return changed;
}

// --- tables

View cell(View text) {
  const size_t end = text.find_first_of("|[]");
  if (end != View::npos && text[end] == '|' && text.substr(0, end).find('=') != View::npos &&
      text.substr(end + 1, 1) != "|")
    text.remove_prefix(end + 1);
  return strip(text);
}

struct Rows {
  std::vector<std::vector<string>> rows;

  void line(View line) {
    if (line.substr(0, 2) == "|-") {
      rows.emplace_back();
    } else if (line.substr(0, 2) == "|+") {
      rows.back() = {string(cell(line.substr(2)))};
      rows.emplace_back();
    } else if (!line.empty() && (line[0] == '|' || line[0] == '!')) {
      line.remove_prefix(1);
      size_t from = 0;
      for (size_t at = 0; at + 1 < line.size();) {
        if ((line[at] == '|' && line[at + 1] == '|') || (line[at] == '!' && line[at + 1] == '!')) {
          rows.back().emplace_back(cell(line.substr(from, at - from)));
          at = from = at + 2;
        } else {
          ++at;
        }
      }
      rows.back().emplace_back(cell(line.substr(from)));
    } else if (!line.empty() && !rows.back().empty()) {
      const size_t begin = line.find_first_not_of("*#:; ");
      rows.back().back() += " ";
      if (begin != View::npos) rows.back().back() += line.substr(begin);
    }
  }

  void show(string* to) const {
    for (const auto& row : rows) {
      string line;
      for (const string& text : row)
        if (!text.empty()) (line += line.empty() ? "" : " | ") += text;
      if (!strip(line).empty()) ((*to += " ") += line) += '\n';
    }
  }
};

bool is_box(View line) {
  for (const char* name :
       {"infobox", "navbox", "metadata", "sidebar", "toccolours", "ambox", "noprint", "float:"}) {
    const size_t size = std::strlen(name);
    for (size_t at = 0; at + size <= line.size(); ++at)
      if (same(line.substr(at, size), name)) return true;
  }
  return false;
}

void Wiki::table_lines(string* text, bool keep) {
  spare_.clear();
  Rows rows;
  int64_t depth = 0;
  bool box = false;
  View left(*text);
  while (true) {
    const size_t end = left.find('\n');
    const View line = left.substr(0, end);
    const size_t begin = line.find_first_not_of(" \t:");
    const View bare = begin == View::npos ? View() : line.substr(begin);
    if (bare.substr(0, 2) == "{|") {
      if (++depth == 1) {
        rows.rows.assign(1, {});
        box = is_box(bare);
      }
    } else if (depth && bare.substr(0, 2) == "|}" && bare.substr(0, 3) != "|}}") {
      if (--depth == 0) {
        if (keep && !box) rows.show(&spare_);
        (spare_ += bare.substr(2)) += '\n';
      }
    } else if (depth == 0) {
      (spare_ += line) += '\n';
    } else if (depth == 1) {
      rows.line(bare);
    }
    if (end == View::npos) break;
    left.remove_prefix(end + 1);
  }
  if (depth && keep && !box) rows.show(&spare_);
  if (!spare_.empty()) spare_.pop_back();  // lines have a line end between them, not after the last
  text->swap(spare_);
}

// --- marks

bool is_block(View name) {
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

// --- lines

// The length of a character that stands in empty brackets: space, comma, semicolon, colon, also the wide ones; or 0.
size_t hollow(View text, size_t at) {
  const char c = text[at];
  if (c == ',' || c == ';' || c == ':') return 1;
  const View three = text.substr(at, 3);
  if (three == "、" || three == "，" || three == "；" || three == "：") return 3;
  return space_at(text, at);
}

// Brackets with nothing in them go, with a space before them.
void empty_brackets(string* text, string* spare, View open) {
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

void marked(char mark, View rest, string* to) {
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

void Wiki::plain(View given, bool tables) {
  string text(given);
  for (const char* mark : {"\xEE\x80\x80", "\xEE\x80\x81", "\xEE\x80\x82", "\r"}) replace_all(&text, &spare_, mark, "");
  if (holds(text, "<!--")) comments(&text);
  if (holds(text, "<")) elements(&text);
  for (int turn = 0; turn < kDepth; ++turn) {
    bool changed = holds(text, "-{") && variants(&text);
    changed = (holds(text, "{{") && templates(&text)) || changed;
    if (!changed) break;
  }
  if (holds(text, "[")) {
    external(&text);
    for (int turn = 0; turn < kLinkDepth && links(&text); ++turn) continue;
  }
  if (holds(text, "{|")) table_lines(&text, tables);
  if (holds(text, "<")) yanmo_text::tags(&text, &spare_);
  if (holds(text, "''")) quotes(&text, &spare_);
  if (holds(text, "__")) magic(&text);
  leftovers(&text, &spare_);
  if (holds(text, "&")) {
    const bool twice = holds(text, "&amp;");
    entities(&text);
    if (twice) entities(&text);
  }
  tidy(&text);
  out.swap(text);
}

// Whether a template of disambiguation pages stands in a text: \{\{([^{}|<\n]{1,60})
bool Wiki::disambiguation(View text) {
  size_t at = 0;
  while ((at = text.find("{{", at)) != View::npos) {
    size_t end = at + 2;
    int characters = 0;
    while (end < text.size() && characters < 60 && View("{}|<\n").find(text[end]) == View::npos) {
      ++end;
      while (end < text.size() && (text[end] & 0xC0) == 0x80) ++end;
      ++characters;
    }
    if (characters == 0) {
      ++at;
      continue;
    }
    if (ask(kDisambiguation, text.substr(at + 2, end - at - 2)).number) return true;
    at = end;
  }
  return false;
}

}  // namespace
}  // namespace yanmo_text

using namespace yanmo_text;

EXPORT void* yanmo_wiki_new(Callback callback) { return new (std::nothrow) Wiki(callback); }
EXPORT void yanmo_wiki_free(void* wiki) { delete static_cast<Wiki*>(wiki); }

// Within a callback: the text of its answer.
EXPORT void yanmo_wiki_answer(void* wiki, const char* text, int64_t size) {
  static_cast<Wiki*>(wiki)->answer.assign(text, static_cast<size_t>(size));
}

// The size of the plain text, which yanmo_wiki_out then gives; -2 without memory.
EXPORT int64_t yanmo_wiki_plain(void* wiki, const char* text, int64_t size, int32_t tables) try {
  Wiki* made = static_cast<Wiki*>(wiki);
  made->plain(string_view(text, static_cast<size_t>(size)), tables != 0);
  return static_cast<int64_t>(made->out.size());
} catch (const std::exception&) {
  return -2;
}

EXPORT const char* yanmo_wiki_out(void* wiki) { return static_cast<Wiki*>(wiki)->out.data(); }

// 1 for a page of disambiguation, 0 for another; -2 without memory.
EXPORT int64_t yanmo_wiki_disambiguation(void* wiki, const char* text, int64_t size) try {
  return static_cast<Wiki*>(wiki)->disambiguation(string_view(text, static_cast<size_t>(size)));
} catch (const std::exception&) {
  return -2;
}

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
