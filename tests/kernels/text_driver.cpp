// Encodes made texts in memory that is exactly as large as it is said to be, so that the sanitizers see each byte read
// or written beyond it, and counts the bytes that the ids stand for. Built by test_sanitizers.py.
#include <cstdio>
#include <cstring>

#include "bpe.h"

using namespace yanmo_text;

extern "C" {
void* yanmo_bpe_new(const BpeParts*);
void yanmo_bpe_free(void*);
int64_t yanmo_bpe_encode(void*, const uint8_t*, int64_t, uint32_t*);
void* yanmo_wiki_new(int64_t (*)(int32_t, const char*, int64_t));
void yanmo_wiki_free(void*);
void yanmo_wiki_answer(void*, const char*, int64_t);
int64_t yanmo_wiki_plain(void*, const char*, int64_t, int32_t);
const char* yanmo_wiki_out(void*);
int64_t yanmo_wiki_disambiguation(void*, const char*, int64_t);
int32_t yanmo_utf8(const char*, int64_t);
int64_t yanmo_xml_text(const char*, int64_t, char*);
}

static uint64_t state = 88172645463325252ull;
static uint32_t dice() {
  state ^= state << 13, state ^= state >> 7, state ^= state << 17;
  return static_cast<uint32_t>(state >> 32);
}

static void put(std::string* text, uint32_t c) {
  if (c < 0x80) {
    *text += static_cast<char>(c);
    return;
  }
  const int more = c < 0x800 ? 1 : c < 0x10000 ? 2 : 3;
  *text += static_cast<char>((more == 1 ? 0xC0 : more == 2 ? 0xE0 : 0xF0) | c >> (6 * more));
  for (int i = more - 1; i >= 0; --i) *text += static_cast<char>(0x80 | ((c >> (6 * i)) & 63));
}

static void* wiki;
static int64_t answer(int32_t what, const char* text, int64_t size) {
  if (what >= 4 || size % 3 == 0) yanmo_wiki_answer(wiki, text, size);
  return what == 7 ? 0 : size % 5;
}

// Wikitext of chance in memory of its very size; what comes out is UTF-8 again.
static int convert() {
  const char* pool[] = {"{{", "}}", "}}}", "[[", "]]", "|", "{|", "|}", "\n", "\n|-", "||", "''", "'", "=", "\n=", "*", " ",
                        "<ref>", "</ref>", "<br", ">", "<math>", "</math>", "<!--", "-->", "-{", "}-", "&", ";", "&#x", "1",
                        "&lt;", "&amp;", "__", "a", "\xC3\xA9", "\xE4\xB8\xAD", "(", ")", "\xEF\xBC\x88", ",", "\xEF\xBC\x8C",
                        "[http://", "]", ":", "#", "\xC2\xA0", "\xE3\x80\x80", "\xEE\x80\x82", "----", "<", "{", "}", "\t"};
  wiki = yanmo_wiki_new(answer);
  int wrong = 0;
  for (int turn = 0; turn < 6000; ++turn) {
    std::string text;
    const uint32_t length = dice() % (turn % 50 ? 30 : 800);
    for (uint32_t i = 0; i < length; ++i) text += pool[dice() % (sizeof pool / sizeof *pool)];
    const auto n = static_cast<int64_t>(text.size());
    std::unique_ptr<char[]> given(new char[text.size()]), room(new char[text.size()]);
    std::memcpy(given.get(), text.data(), text.size());
    const int64_t size = yanmo_wiki_plain(wiki, given.get(), n, turn % 2);
    wrong += size < 0 || yanmo_utf8(yanmo_wiki_out(wiki), size) != 1 || yanmo_utf8(given.get(), n) != 1;
    wrong += yanmo_wiki_disambiguation(wiki, given.get(), n) != 0;
    wrong += yanmo_xml_text(given.get(), n, room.get()) > n;
    for (int64_t i = 0; i < n; ++i) given[static_cast<size_t>(i)] = static_cast<char>(dice());
    yanmo_utf8(given.get(), n);
  }
  yanmo_wiki_free(wiki);
  return wrong;
}

int main() {
  std::vector<uint8_t> classes(kCodePoints, 0);
  for (int c = 'a'; c <= 'z'; ++c) classes[c] = 1;
  for (int c = 0x4E00; c < 0x9FFF; ++c) classes[c] = 1;
  for (int c = '0'; c <= '9'; ++c) classes[c] = 2;
  classes[' '] = classes[0x3000] = 4, classes['\n'] = 4 | 8, classes[0x301] = 128;
  std::vector<uint32_t> bytes(256), merges, sizes(256, 1);
  for (uint32_t i = 0; i < 256; ++i) bytes[i] = i;
  for (int i = 0; i < 3000; ++i) {
    const uint32_t left = dice() % sizes.size(), right = dice() % sizes.size(), joined = sizes.size();
    merges.insert(merges.end(), {left, right, joined});
    sizes.push_back(sizes[left] + sizes[right]);
  }
  const char* word = "abc";
  const int64_t word_ends[] = {0, 3}, added_ends[] = {0, 3};
  const uint32_t word_id = static_cast<uint32_t>(sizes.size()), folds[] = {0x17F, 's'};
  sizes.push_back(3);
  int wrong = convert(), left = 0;
  for (int32_t style = 0; style < 2; ++style) {
    BpeParts parts{};
    parts.classes = classes.data(), parts.byte_ids = bytes.data(), parts.merges = merges.data(), parts.folds = folds;
    parts.words = reinterpret_cast<const uint8_t*>(word), parts.word_ends = word_ends, parts.word_ids = &word_id;
    parts.added = reinterpret_cast<const uint8_t*>("<x>"), parts.added_ends = added_ends;
    parts.n_merges = static_cast<int64_t>(merges.size() / 3), parts.n_folds = 1, parts.n_words = style;
    parts.n_added = 1, parts.style = style, parts.digits = 3;
    void* bpe = yanmo_bpe_new(&parts);
    for (int turn = 0; turn < 4000; ++turn) {
      std::string text;
      const uint32_t pool[] = {'a', 'b', 'c', 's', 'e', 'l', 'r', '\'', ' ', '\n', '1', '.', '<', 'x', '>', 0x301, 0x17F,
                               0x3000, 0x4E2D, 0x1F600, 0x10FFFF, 'S'};
      const uint32_t length = dice() % (turn % 100 ? 40 : 3000), of = turn % 3 ? 22 : 5;
      for (uint32_t i = 0; i < length; ++i) put(&text, pool[dice() % of]);
      const auto n = static_cast<int64_t>(text.size());
      std::unique_ptr<uint8_t[]> given(new uint8_t[text.size()]);
      std::unique_ptr<uint32_t[]> out(new uint32_t[text.size() + 4]);
      std::memcpy(given.get(), text.data(), text.size());
      const int64_t count = yanmo_bpe_encode(bpe, given.get(), n, out.get());
      int64_t stood = 0;
      for (int64_t i = 0; i < count; ++i) stood += sizes[out[i]];
      const bool may = text.find("\xCC\x81") != std::string::npos || text.find("<x>") != std::string::npos;
      if (count < 0 ? !may : stood != n) ++wrong;
      left += count < 0;
    }
    yanmo_bpe_free(bpe);
  }
  std::printf("%d left to the library, %d wrong\n", left, wrong);
  return wrong != 0 || left == 0;
}
