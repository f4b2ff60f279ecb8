// The parts of a byte-level BPE.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "export.h"

namespace yanmo_text {

constexpr int64_t kCodePoints = 0x110000;
constexpr int64_t kForeign = -1;
constexpr int32_t kGone = -2;            // `prev` of a symbol that its neighbour took
constexpr size_t kSlots = size_t{1} << 16;  // 4 MB of words: little more than the second cache
constexpr int64_t kKept = 11;            // ids of a kept word

// What Python hands over (BpeParts of yanmo/nativetext.py); nothing of it is kept.
struct BpeParts {
  const uint8_t* classes;     // of each code point: words.h
  const uint32_t* byte_ids;   // 256
  const uint32_t* merges;     // n_merges × (left, right, joined), in the order in which they were learned
  const uint32_t* folds;      // n_folds × (code point, ASCII letter)
  const uint8_t* words;       // whole words that are taken as they are, one after the other …
  const int64_t* word_ends;   // … n_words + 1 places
  const uint32_t* word_ids;
  const uint8_t* added;       // added tokens
  const int64_t* added_ends;
  int64_t n_merges, n_folds, n_words, n_added;
  int32_t style, digits;
};

// (left, right) → (rank, joined id), open addressing.
class Pairs {
 public:
  struct Slot {
    uint64_t key;
    uint32_t rank, id;
  };
  void build(const uint32_t* merges, int64_t n);
  const Slot* find(uint32_t left, uint32_t right) const;

 private:
  size_t place(uint64_t key) const { return static_cast<size_t>((key * 0x9E3779B97F4A7C15u) >> shift_); }
  std::vector<Slot> slots_;
  int shift_ = 60;
};

// A word of at most 16 bytes and its ids: one line of the processor's cache.
struct Kept {
  uint64_t key[2];
  uint8_t length, count;
  uint32_t ids[kKept];
};

struct Link {
  uint32_t id;
  int32_t prev, next;
};

struct Bpe {
  std::vector<uint8_t> classes;
  uint32_t bytes[256];
  Pairs pairs;
  std::vector<std::pair<uint32_t, uint8_t>> folds;
  std::string spelt;  // what the names of `whole` point into
  std::unordered_map<std::string_view, uint32_t> whole;
  std::vector<std::string> added[256];  // by the first byte
  std::vector<Kept> cache;
  std::vector<Link> chain;
  std::vector<uint64_t> heap;
  int32_t style, digits;

  int64_t encode(const uint8_t* text, int64_t n, uint32_t* out);
  int64_t word(const uint8_t* word, int64_t n, int64_t left, uint32_t* out);
  int64_t join(const uint8_t* word, int64_t n, uint32_t* out);
  int64_t join_few(const uint8_t* word, int64_t n, uint32_t* out) const;
  int64_t join_many(const uint8_t* word, int64_t n, uint32_t* out);
  bool holds_added(const uint8_t* text, int64_t n) const;
};

}  // namespace yanmo_text
