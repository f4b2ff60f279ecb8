// Wikitext -> plain text, step by step as yanmo/corpus/wikitext.py does it, on UTF-8.
//
// What a name means (of a template, a namespace, an entity) is asked of Python once and kept, so that the words of all
// languages, their letter cases and their tables stand in one place. The text must be valid UTF-8.
#include <algorithm>
#include <cstring>
#include <new>

#include "export.h"
#include "wiki.h"

namespace yanmo_text {
namespace {

constexpr int kDepth = 12, kLinkDepth = 4;
constexpr size_t kMemory = 200000, kLongest = 200;  // answers that are kept, and bytes of a question

bool holds(const string& text, const char* what) { return text.find(what) != string::npos; }

}  // namespace

// The answer to a question. It is kept, except that to a long one, and of what is set aside, whose mark is another each
// time.
const Answer& Wiki::ask(int32_t what, View text) {
  const bool keep = what != kAside && text.size() <= kLongest;
  auto& known = known_[what];
  if (keep) {
    const auto found = known.find(string(text));
    if (found != known.end()) return found->second;
  }
  answer.clear();
  const int64_t number = callback_(what, text.data(), static_cast<int64_t>(text.size()));
  if (known.size() > kMemory) known.clear();
  Answer& kept = keep ? known[string(text)] : once_;
  kept = Answer{number, answer};
  return kept;
}

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

static const std::vector<string> kDropped = {"ref", "references", "gallery", "timeline", "score", "imagemap", "templatedata",
                                      "graph", "mapframe", "maplink", "hiero", "inputbox", "categorytree",
                                      "templatestyles", "indicator", "style", "script", "includeonly"};
static const std::vector<string> kCode = {"nowiki", "pre", "syntaxhighlight", "source", "math", "chem", "ce"};

// The place of a name among all of them, or -1.
static int element(View name) {
  if (name.size() < 2 || name.size() > 15) return -1;
  int number = 0;
  for (const auto* names : {&kDropped, &kCode})
    for (const string& known : *names) {
      if (same(name, known)) return number;
      ++number;
    }
  return -1;
}

static const string& element_name(int number) {
  const int dropped = static_cast<int>(kDropped.size());
  return number < dropped ? kDropped[number] : kCode[number - dropped];
}

// Where "</name" begins, in any case, from `at` on.
static size_t end_tag(const string& text, View name, size_t at) {
  while ((at = text.find("</", at)) != string::npos) {
    if (text.size() - at - 2 >= name.size() && same(View(text).substr(at + 2, name.size()), name)) return at;
    at += 2;
  }
  return string::npos;
}

void Wiki::elements(string* given) {
  const string& text = *given;
  string made;
  std::vector<size_t> ends(kDropped.size() + kCode.size(), 0);
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
  if (holds(text, "<")) tags(&text, &spare_);
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
