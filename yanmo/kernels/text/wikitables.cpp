// Tables of wikitext as lines of cells (yanmo/corpus/wikitext_tables.py).
#include <cstring>

#include "wiki.h"

namespace yanmo_text {
namespace {

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

}  // namespace

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

}  // namespace yanmo_text
