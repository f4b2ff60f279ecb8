// The converter of wikitext, and what its parts share; see wikitext.cpp.
#pragma once

#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "utf8.h"

namespace yanmo_text {

using std::string;
using std::string_view;
using View = string_view;

// The questions; the numbers are those of yanmo/corpus/wikinative.py.
enum Ask { kTemplate = 0, kPrefix = 1, kNamed = 2, kMagic = 3, kVariant = 4, kEntity = 5, kAside = 6, kDisambiguation = 7 };
// What a template is: its kind in the low bits, the number of a fixed text above them.
enum Kind { kNone = 0, kFirst = 1, kLast = 2, kConvert = 3, kDate = 4 };
enum Prefix { kShown = 0, kHidden = 1, kLanguage = 2 };

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
  Answer once_;  // that to a question that is not kept
  string spare_;  // what a pass writes, then takes the place of the text
};

// The end of [^<>]* from `at`, if ">" stands there; else npos.
inline size_t tag_end(const string& text, size_t at) {
  at = text.find_first_of("<>", at);
  return at != string::npos && text[at] == '>' ? at : string::npos;
}

inline size_t word_end(const string& text, size_t at) {
  while (at < text.size() && is_word(text[at])) ++at;
  return at;
}

// The whole text written anew by each of these; `spare` is its room.
void tags(string* text, string* spare);
void quotes(string* text, string* spare);
void leftovers(string* text, string* spare);
void replace_all(string* text, string* spare, View what, View with);

}  // namespace yanmo_text
