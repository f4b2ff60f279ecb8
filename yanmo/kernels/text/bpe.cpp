// Byte-level BPE: a text in UTF-8 -> ids, as the tokenizers library gives them.
//
// A text is cut into words by the rule that GPT-2 or its followers (cl100k, Llama 3, Qwen 2) state as a regular
// expression, here a scanner over the classes of characters; the bytes of each word are joined pair by pair, the pair
// that was learned first before the others, the leftmost before its equals. Short words are kept, since a text says most
// of them again.
//
// The text must be valid UTF-8 (Python's encoder wrote it). A text that holds one of `added`, or a character that the
// normaliser may change, is handed back, for the library itself.
#include "bpe.h"

#include <cstring>
#include <limits>
#include <new>

#include "words.h"

namespace yanmo_text {

constexpr int64_t kFew = 32;  // symbols whose best pair is looked for by comparing all, which is faster than a heap
constexpr uint64_t kNone = ~uint64_t{0};

uint64_t mix(uint64_t x) {
  x *= 0x9E3779B97F4A7C15u;
  x ^= x >> 32;
  x *= 0xD6E8FEB86659FD93u;
  return x ^ (x >> 29);
}

void Pairs::build(const uint32_t* merges, int64_t n) {
  int bits = 4;
  while ((int64_t{1} << bits) < 2 * n + 2) ++bits;
  shift_ = 64 - bits;
  slots_.assign(size_t{1} << bits, Slot{kNone, 0, 0});
  for (int64_t i = 0; i < n; ++i) {  // of a pair that is listed twice the last counts, as in the library
    const uint64_t key = uint64_t{merges[3 * i]} << 32 | merges[3 * i + 1];
    size_t at = place(key);
    while (slots_[at].key != kNone && slots_[at].key != key) at = (at + 1) & (slots_.size() - 1);
    slots_[at] = Slot{key, static_cast<uint32_t>(i), merges[3 * i + 2]};
  }
}

const Pairs::Slot* Pairs::find(uint32_t left, uint32_t right) const {
  const uint64_t key = uint64_t{left} << 32 | right;
  for (size_t at = place(key);; at = (at + 1) & (slots_.size() - 1)) {
    if (slots_[at].key == key) return &slots_[at];
    if (slots_[at].key == kNone) return nullptr;
  }
}

// The ids of a word of few bytes: the pair of the lowest rank is found by looking at all of them.
int64_t Bpe::join_few(const uint8_t* word, int64_t n, uint32_t* out) const {
  uint32_t ranks[kFew], news[kFew];
  for (int64_t i = 0; i < n; ++i) out[i] = bytes[word[i]];
  auto look = [&](int64_t i) {
    const Pairs::Slot* found = pairs.find(out[i], out[i + 1]);
    ranks[i] = found ? found->rank : ~0u;
    news[i] = found ? found->id : 0;
  };
  for (int64_t i = 0; i + 1 < n; ++i) look(i);
  while (n > 1) {
    int64_t best = 0;
    for (int64_t i = 1; i + 1 < n; ++i)
      if (ranks[i] < ranks[best]) best = i;
    if (ranks[best] == ~0u) break;
    out[best] = news[best];
    --n;
    for (int64_t i = best + 1; i < n; ++i) out[i] = out[i + 1];
    for (int64_t i = best + 1; i + 1 < n; ++i) ranks[i] = ranks[i + 1], news[i] = news[i + 1];
    if (best + 1 < n) look(best);
    if (best > 0) look(best - 1);
  }
  return n;
}

// The same for a word of any length: a heap of (rank, place), and symbols in a chain.
int64_t Bpe::join_many(const uint8_t* word, int64_t n, uint32_t* out) {
  chain.resize(static_cast<size_t>(n));
  heap.clear();
  for (int64_t i = 0; i < n; ++i) {
    chain[i] = Link{bytes[word[i]], static_cast<int32_t>(i) - 1, i + 1 < n ? static_cast<int32_t>(i) + 1 : -1};
  }
  auto push = [&](int32_t i) {
    const int32_t next = chain[i].next;
    if (next < 0) return;
    if (const Pairs::Slot* found = pairs.find(chain[i].id, chain[next].id))
      heap.push_back(uint64_t{found->rank} << 32 | static_cast<uint32_t>(i));
  };
  for (int64_t i = 0; i + 1 < n; ++i) push(static_cast<int32_t>(i));
  std::make_heap(heap.begin(), heap.end(), std::greater<>());
  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end(), std::greater<>());
    const uint64_t top = heap.back();
    heap.pop_back();
    const int32_t at = static_cast<int32_t>(top & 0xFFFFFFFFu);
    const int32_t next = chain[at].next;
    if (chain[at].prev == kGone || next < 0) continue;
    const Pairs::Slot* found = pairs.find(chain[at].id, chain[next].id);
    if (found == nullptr || found->rank != top >> 32) continue;  // one of the two has grown since
    chain[at].id = found->id;
    chain[at].next = chain[next].next;
    chain[next].prev = kGone;
    if (chain[at].next >= 0) chain[chain[at].next].prev = at;
    const size_t before = heap.size();
    push(at);
    if (heap.size() > before) std::push_heap(heap.begin(), heap.end(), std::greater<>());
    if (chain[at].prev >= 0) {
      const size_t then = heap.size();
      push(chain[at].prev);
      if (heap.size() > then) std::push_heap(heap.begin(), heap.end(), std::greater<>());
    }
  }
  int64_t count = 0;
  for (int32_t at = 0; at >= 0; at = chain[at].next) out[count++] = chain[at].id;
  return count;
}

int64_t Bpe::join(const uint8_t* word, int64_t n, uint32_t* out) {
  if (n == 1) {
    out[0] = bytes[word[0]];
    return 1;
  }
  if (!whole.empty()) {
    const auto found = whole.find(std::string_view(reinterpret_cast<const char*>(word), static_cast<size_t>(n)));
    if (found != whole.end()) {
      out[0] = found->second;
      return 1;
    }
  }
  return n <= kFew ? join_few(word, n, out) : join_many(word, n, out);
}

// `left`: bytes from the word to the end of the text.
int64_t Bpe::word(const uint8_t* word, int64_t n, int64_t left, uint32_t* out) {
  if (n > 16) return join(word, n, out);
  uint64_t key[2] = {0, 0};
  if (left >= 16) {
    std::memcpy(key, word, 16);
    if (n < 8) {
      key[0] &= (uint64_t{1} << (8 * n)) - 1;
      key[1] = 0;
    } else if (n < 16) {
      key[1] &= (uint64_t{1} << (8 * (n - 8))) - 1;
    }
  } else {
    std::memcpy(key, word, static_cast<size_t>(n));
  }
  Kept& kept = cache[mix(key[0] ^ mix(key[1] + static_cast<uint64_t>(n))) & (cache.size() - 1)];
  if (kept.key[0] == key[0] && kept.key[1] == key[1] && kept.length == n) {
    std::memcpy(out, kept.ids, sizeof(uint32_t) * 4);  // the room behind `out` is there: see yanmo_bpe_encode
    if (kept.count > 4) std::memcpy(out + 4, kept.ids + 4, sizeof(uint32_t) * (kept.count - 4));
    return kept.count;
  }
  const int64_t count = join(word, n, out);
  if (count <= kKept) {
    kept.key[0] = key[0];
    kept.key[1] = key[1];
    kept.length = static_cast<uint8_t>(n);
    kept.count = static_cast<uint8_t>(count);
    std::memcpy(kept.ids, out, sizeof(uint32_t) * static_cast<size_t>(count));
  }
  return count;
}

int64_t Bpe::encode(const uint8_t* text, int64_t n, uint32_t* out) {
  if (n > std::numeric_limits<int32_t>::max() || holds_added(text, n)) return kForeign;  // Link has places of 32 bits
  const Scanner scan{classes.data(), folds, style, digits};
  int64_t count = 0;
  for (int64_t at = 0; at < n;) {
    const int64_t end = scan.next(text, at, n);
    if (end < 0) return kForeign;
    count += word(text + at, end - at, n - at, out + count);
    at = end;
  }
  return count;
}

bool Bpe::holds_added(const uint8_t* text, int64_t n) const {
  for (int first = 0; first < 256; ++first) {
    const std::vector<std::string>& tokens = added[first];
    if (tokens.empty()) continue;
    const uint8_t* at = text;
    const uint8_t* end = text + n;
    while (at < end && (at = static_cast<const uint8_t*>(std::memchr(at, first, end - at))) != nullptr) {
      for (const std::string& token : tokens)
        if (end - at >= static_cast<int64_t>(token.size()) && std::memcmp(at, token.data(), token.size()) == 0)
          return true;
      ++at;
    }
  }
  return false;
}

}  // namespace yanmo_text

using namespace yanmo_text;

EXPORT void* yanmo_bpe_new(const BpeParts* parts) try {
  auto made = std::make_unique<Bpe>();
  made->classes.assign(parts->classes, parts->classes + kCodePoints);
  std::memcpy(made->bytes, parts->byte_ids, sizeof made->bytes);
  made->pairs.build(parts->merges, parts->n_merges);
  for (int64_t i = 0; i < parts->n_folds; ++i)
    made->folds.emplace_back(parts->folds[2 * i], static_cast<uint8_t>(parts->folds[2 * i + 1]));
  made->style = parts->style;
  made->digits = parts->digits;
  if (parts->n_words > 0)
    made->spelt.assign(reinterpret_cast<const char*>(parts->words), static_cast<size_t>(parts->word_ends[parts->n_words]));
  const std::string_view names = made->spelt;
  for (int64_t i = 0; i < parts->n_words; ++i) {
    const auto from = static_cast<size_t>(parts->word_ends[i]), to = static_cast<size_t>(parts->word_ends[i + 1]);
    made->whole.emplace(names.substr(from, to - from), parts->word_ids[i]);
  }
  const char* tokens = reinterpret_cast<const char*>(parts->added);
  for (int64_t i = 0; i < parts->n_added; ++i) {
    const std::string token(tokens + parts->added_ends[i], tokens + parts->added_ends[i + 1]);
    if (!token.empty()) made->added[static_cast<uint8_t>(token[0])].push_back(token);
  }
  made->cache.assign(kSlots, Kept{});
  return made.release();
} catch (const std::bad_alloc&) {
  return nullptr;
}

EXPORT void yanmo_bpe_free(void* bpe) { delete static_cast<Bpe*>(bpe); }

// Writes the ids into `out`, which has room for n + 4 of them, and returns how many; -1: the library must do it;
// -2: no memory.
EXPORT int64_t yanmo_bpe_encode(void* bpe, const uint8_t* text, int64_t n, uint32_t* out) try {
  return static_cast<Bpe*>(bpe)->encode(text, n, out);
} catch (const std::bad_alloc&) {
  return -2;
}

EXPORT int yanmo_text_version() { return 2; }
