// Runs every kernel on every level of this processor in memory that is exactly as large as it is said to be, so that the
// sanitizers see each byte read or written beyond it, and compares the levels. Built by test_sanitizers.py.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <memory>
#include <thread>
#include <vector>

#include "common.h"
#include "train.h"

extern "C" {
const char* yanmo_level_name(int n);
void yanmo_use_level(int n);
int yanmo_linear(const void*, const void*, const void*, const void*, int64_t, int64_t, int64_t, const void*, int64_t,
                 int64_t, void*, int64_t, int64_t, int);
int yanmo_attend(const yanmo::AttendJob*, int);
void yanmo_normalise(const yanmo::NormJob*, int64_t, int);
void yanmo_activate(const yanmo::ActivateJob*, int);
void yanmo_train_adam(const yanmo::AdamJob*, int64_t, int64_t*, int);
double yanmo_train_squares(const yanmo::SquaresJob*, int64_t, int64_t*, double*, int);
void yanmo_train_join(const yanmo::JoinJob*, int);
void yanmo_train_join_back(const yanmo::JoinBackJob*, int);
void yanmo_train_curve(const yanmo::CurveJob*, int);
void yanmo_train_weigh(const yanmo::WeighJob*, int);
void yanmo_train_weigh_back(const yanmo::WeighBackJob*, int);
void yanmo_train_turn(const yanmo::TurnJob*, int);
int yanmo_train_tiles();
int yanmo_train_product(const yanmo::ProductJob*, int);
int yanmo_train_heads(const yanmo::HeadsJob*, int);
}

using namespace yanmo;

static uint64_t state = 88172645463325252ull;
static uint32_t dice() {
  state ^= state << 13, state ^= state >> 7, state ^= state << 17;
  return static_cast<uint32_t>(state >> 32);
}
static float number() { return static_cast<float>(static_cast<int32_t>(dice())) / 1e9f; }

template <typename T>
static std::unique_ptr<T[]> some(int64_t count) {
  std::unique_ptr<T[]> made(new T[count]);
  for (int64_t i = 0; i < count; ++i) {
    if constexpr (sizeof(T) == 4) made[i] = static_cast<T>(number() * (std::is_integral<T>::value ? 1000 : 1));
    else made[i] = static_cast<T>(dice());
  }
  return made;
}

static int wrong = 0;
static void compare(const char* what, const std::vector<std::vector<float>>& all, float tolerance) {
  for (size_t level = 1; level < all.size(); ++level) {
    for (size_t i = 0; i < all[0].size(); ++i) {
      const float a = all[0][i], b = all[level][i];
      if (std::isnan(a) && std::isnan(b)) continue;
      if (!(std::fabs(a - b) <= tolerance * (1 + std::fabs(a)))) {
        std::printf("%s: level %s gives %g where plain gives %g\n", what, yanmo_level_name(static_cast<int>(level)), b, a);
        ++wrong;
        return;
      }
    }
  }
}

static int count_levels() {
  int n = 0;
  while (yanmo_level_name(n) != nullptr) ++n;
  return n;
}

static void products(int levels) {
  for (int turn = 0; turn < 60; ++turn) {
    const int64_t outputs = 1 + dice() % 70, inputs = 1 + dice() % 150, rows = 1 + dice() % (turn % 4 == 0 ? 60 : 7);
    const int format = turn % 3 == 0 ? 0 : turn % 3 == 1 ? 4 : 8;
    const int64_t padded = format == 0 ? (inputs + 63) / 64 * 64 : (inputs + 31) / 32 * 32;
    const int64_t filled = (outputs + 15) / 16 * 16;
    const int64_t bytes = format == 0 ? filled * padded : filled * (padded / 32) * (format == 4 ? 18 : 34);
    auto panels = some<uint8_t>(bytes);
    if (format == 0) {
      for (int64_t i = 0; i < bytes; ++i) panels[i] = panels[i] == 0 ? 1 : panels[i];
    } else {
      const int64_t unit = format == 4 ? 288 : 544;  // scales between 2⁻⁸ and 2⁻¹, none NaN
      for (int64_t at = 0; at < bytes; at += unit) {
        for (int i = 1; i < 32; i += 2) panels[at + i] = static_cast<uint8_t>(0x1c + panels[at + i] % 0x1c);
      }
    }
    auto scale = some<float>(filled);
    auto sums = some<int32_t>(filled);
    auto bias = some<float>(outputs);
    const int64_t stride = inputs + dice() % 3;
    auto x = some<float>((rows - 1) * stride + inputs);
    if (turn % 10 == 0) x[dice() % inputs] = std::numeric_limits<float>::quiet_NaN();
    if (turn % 10 == 1) x[dice() % inputs] = std::numeric_limits<float>::infinity();
    std::vector<std::vector<float>> all;
    for (int level = 0; level < levels; ++level) {
      yanmo_use_level(level);
      std::unique_ptr<float[]> out(new float[rows * outputs]);
      if (yanmo_linear(panels.get(), format == 0 ? scale.get() : nullptr, format == 0 ? sums.get() : nullptr,
                       turn % 2 ? bias.get() : nullptr, outputs, inputs, format, x.get(), rows, stride, out.get(), 0,
                       turn % 5 == 0, 1 + turn % 3) != 0) {
        ++wrong;
      }
      all.emplace_back(out.get(), out.get() + rows * outputs);
    }
    compare("linear", all, format == 0 ? 0.0f : 1e-4f);
  }
}

static void attention(int levels) {
  for (int turn = 0; turn < 40; ++turn) {
    AttendJob job{};
    job.rows = 1 + dice() % 3, job.kv_heads = 1 + dice() % 3, job.groups = 1 + dice() % 6, job.tokens = 1 + dice() % 4;
    job.head_width = turn % 3 == 0 ? 64 : turn % 3 == 1 ? 128 : 1 + dice() % 90;
    job.window = turn % 2 ? 0 : 1 + dice() % 20;
    job.scale = 0.2f;
    job.cached = turn % 2 ? kFloat32 : kInt8;
    const int64_t columns = 1 + dice() % (turn % 5 ? 60 : 600), heads = job.kv_heads * job.groups;
    const int64_t held = job.rows * job.kv_heads * columns * job.head_width;
    auto query = some<float>(job.rows * heads * job.tokens * job.head_width);
    auto wide_key = some<float>(held), wide_value = some<float>(held);
    auto key = some<int8_t>(held), value = some<int8_t>(held);
    auto key_scale = some<float>(job.rows * job.kv_heads * columns), value_scale = some<float>(job.rows * job.kv_heads * columns);
    std::unique_ptr<int64_t[]> last(new int64_t[job.rows * job.tokens]);
    for (int64_t i = 0; i < job.rows * job.tokens; ++i) last[i] = static_cast<int64_t>(dice() % (columns + 1)) - 1;
    job.query = query.get(), job.last = last.get();
    job.key = job.cached == kInt8 ? static_cast<const void*>(key.get()) : wide_key.get();
    job.value = job.cached == kInt8 ? static_cast<const void*>(value.get()) : wide_value.get();
    if (job.cached == kInt8) job.key_scale = key_scale.get(), job.value_scale = value_scale.get(), job.scale = 0.001f;
    job.query_token = job.head_width, job.query_head = job.tokens * job.head_width, job.query_row = heads * job.query_head;
    job.key_column = job.value_column = job.head_width;
    job.key_head = job.value_head = columns * job.head_width;
    job.key_row = job.value_row = job.kv_heads * job.key_head;
    job.scale_column = 1, job.scale_head = columns, job.scale_row = job.kv_heads * columns;
    std::unique_ptr<int32_t[]> places(new int32_t[job.rows * columns]);
    for (int64_t i = 0; i < job.rows * columns; ++i) places[i] = static_cast<int32_t>(dice() % columns);
    if (turn % 4 == 3) job.places = places.get(), job.place_row = columns;
    job.out_head = job.head_width, job.out_token = heads * job.head_width, job.out_row = job.tokens * job.out_token;
    const int64_t size = job.rows * job.out_row;
    std::vector<std::vector<float>> all;
    for (int level = 0; level < levels; ++level) {
      yanmo_use_level(level);
      std::unique_ptr<float[]> out(new float[size]);
      job.out = out.get();
      if (yanmo_attend(&job, 1 + turn % 3) != 0) ++wrong;
      all.emplace_back(out.get(), out.get() + size);
    }
    compare("attend", all, 1e-3f);
  }
}

static void small(int levels) {
  for (int turn = 0; turn < 30; ++turn) {
    const int64_t width = 1 + dice() % 100, rows = 1 + dice() % 5, size = width * rows;
    auto x = some<float>(size), gated = some<float>(size), weight = some<float>(width), bias = some<float>(width);
    std::vector<std::vector<float>> norms, activations;
    for (int level = 0; level < levels; ++level) {
      yanmo_use_level(level);
      std::unique_ptr<float[]> out(new float[size]);
      NormJob norm{x.get(), weight.get(), turn % 2 ? bias.get() : nullptr, out.get(), width, width, width, 1e-5f, kFloat32};
      yanmo_normalise(&norm, rows, 1 + turn % 2);
      norms.emplace_back(out.get(), out.get() + size);
      ActivateJob activate{x.get(), turn % 2 ? gated.get() : nullptr, out.get(), size, turn % 6, kFloat32};
      yanmo_activate(&activate, 1 + turn % 2);
      activations.emplace_back(out.get(), out.get() + size);
    }
    compare("normalise", norms, 1e-4f);
    compare("activate", activations, 1e-5f);
  }
}

static std::unique_ptr<uint16_t[]> lows(int64_t count) {  // bfloat16 from -2 to 2
  std::unique_ptr<uint16_t[]> made(new uint16_t[count]);
  for (int64_t i = 0; i < count; ++i) {
    const float x = number();
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    made[i] = static_cast<uint16_t>(bits >> 16);
  }
  return made;
}

static void keep(std::vector<float>& all, const uint16_t* x, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    const uint32_t bits = static_cast<uint32_t>(x[i]) << 16;
    float y;
    std::memcpy(&y, &bits, 4);
    all.push_back(y);
  }
}

static void training(int levels) {
  for (int turn = 0; turn < 20; ++turn) {
    const int64_t rows = 1 + dice() % 40, width = 16 * (1 + dice() % 5), size = rows * width, heads = 1 + dice() % 3;
    const int64_t keys = 16 * (1 + dice() % 3), columns = 1 + dice() % 20, scores = heads * columns * keys;
    const int64_t blocks = (rows + kRowBlock - 1) / kRowBlock, numbers = 1 + dice() % 40000;
    const int32_t limit = turn % 2 ? 3277 : 0;
    const int threads = 1 + turn % 3;
    auto x = lows(size), y = lows(size), weight = lows(width), bias = lows(width), raw = lows(scores), up = lows(scores);
    auto gradient = lows(numbers);
    std::unique_ptr<int32_t[]> range(new int32_t[columns * 2]);
    for (int64_t i = 0; i < columns; ++i) {
      range[2 * i] = static_cast<int32_t>(dice() % keys);
      range[2 * i + 1] = range[2 * i] + 1 + static_cast<int32_t>(dice() % (keys - range[2 * i]));
    }
    std::vector<std::vector<float>> all;
    for (int level = 0; level < levels; ++level) {
      yanmo_use_level(level);
      std::vector<float> found;
      const auto copy = [](const uint16_t* from, int64_t count) {
        std::unique_ptr<uint16_t[]> made(new uint16_t[count]);
        std::memcpy(made.get(), from, static_cast<size_t>(count) * 2);
        return made;
      };
      auto sum = copy(y.get(), size), out = copy(x.get(), size), change = copy(x.get(), size), other = copy(x.get(), size);
      std::unique_ptr<float[]> stats(new float[2 * rows]), sums(new float[blocks * 3 * width]);
      JoinJob join{x.get(), sum.get(), weight.get(), bias.get(), out.get(), stats.get(), rows, width, 7, limit, 1.1f, 1e-5f};
      yanmo_train_join(&join, threads);
      JoinBackJob back{y.get(), sum.get(), weight.get(), stats.get(), change.get(), other.get(), sums.get(), rows, width, 7, limit, 1.1f};
      yanmo_train_join_back(&back, threads);
      keep(found, out.get(), size), keep(found, change.get(), size);
      found.insert(found.end(), sums.get(), sums.get() + blocks * 3 * width);
      CurveJob curve{x.get(), out.get(), nullptr, nullptr, rows, width};
      yanmo_train_curve(&curve, threads);
      CurveJob steep{x.get(), out.get(), change.get(), sums.get(), rows, width};
      yanmo_train_curve(&steep, threads);
      keep(found, out.get(), size);
      TurnJob turned{x.get(), out.get(), rows, width};
      yanmo_train_turn(&turned, threads);
      keep(found, out.get(), size);
      auto weights = copy(raw.get(), scores), dropped = copy(raw.get(), scores), slope = copy(up.get(), scores);
      WeighJob weigh{weights.get(), dropped.get(), range.get(), 1, heads, columns, keys, 0.5f, 7, limit, 1.1f};
      yanmo_train_weigh(&weigh, threads);
      WeighBackJob weigh_back{weights.get(), slope.get(), dropped.get(), range.get(), 1, heads, columns, keys, 0.5f, 7, limit, 1.1f};
      yanmo_train_weigh_back(&weigh_back, threads);
      keep(found, weights.get(), scores);
      std::unique_ptr<float[]> values(new float[numbers]()), first(new float[numbers]()), second(new float[numbers]());
      auto low = copy(gradient.get(), numbers);
      AdamJob adam{values.get(), first.get(), second.get(), low.get(), low.get(), numbers, 0, 0.5f, 0.99f, 0.9f, 0.99f, 0.1f, 3.0f, 1e-6f};
      SquaresJob squares{low.get(), numbers, 0};
      int64_t ends[1];
      std::vector<double> parts(static_cast<size_t>(numbers / kAdamPiece + 1));
      found.push_back(static_cast<float>(yanmo_train_squares(&squares, 1, ends, parts.data(), threads)));
      yanmo_train_adam(&adam, 1, ends, threads);
      found.insert(found.end(), values.get(), values.get() + numbers);
      all.push_back(found);
    }
    compare("training", all, 0.05f);
  }
}

// On the best level alone, as only tiles do these; against sums in the order of the numbers.
static void products_on_tiles() {
  if (!yanmo_train_tiles()) return;
  for (int turn = 0; turn < 16; ++turn) {
    const int64_t rows = 16 * (1 + dice() % 5), depth = 32 * (1 + dice() % 3), columns = 32 * (1 + dice() % 6);
    auto a = lows(rows * depth), b = lows(depth * columns), bias = lows(columns), out = lows(rows * columns);
    ProductJob job{};
    job.a = a.get(), job.b = b.get(), job.bias = turn % 3 ? bias.get() : nullptr, job.out = out.get();
    job.rows = rows, job.depth = depth, job.columns = columns;
    job.turned = turn % 2, job.a_stride = depth, job.b_stride = job.turned ? depth : columns, job.out_stride = columns;
    job.add = turn % 5 == 0;
    std::vector<float> x, y, z, w, exact, found;
    keep(x, a.get(), rows * depth), keep(y, b.get(), depth * columns), keep(z, bias.get(), columns), keep(w, out.get(), rows * columns);
    HeadsJob heads{};
    heads.one = job, heads.count = heads.heads = 1, heads.a_turned = turn % 4 == 3;
    if (heads.a_turned) heads.one.a_stride = rows;
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t c = 0; c < columns; ++c) {
        float sum = job.bias ? z[c] : 0.0f;
        if (job.add) sum += w[r * columns + c];
        for (int64_t k = 0; k < depth; ++k) {
          sum += (heads.a_turned ? x[k * rows + r] : x[r * depth + k]) * (job.turned ? y[c * depth + k] : y[k * columns + c]);
        }
        exact.push_back(sum);
      }
    }
    if (heads.a_turned ? yanmo_train_heads(&heads, 2) : yanmo_train_product(&job, 1 + turn % 3)) ++wrong;
    keep(found, out.get(), rows * columns);
    compare("tiles", {exact, found}, 0.05f);
  }
}

int main() {
  const int levels = count_levels();
  training(levels);
  yanmo_use_level(levels - 1);
  products_on_tiles();
  products(levels);
  attention(levels);
  small(levels);
  // callers of several threads at once share the pool, or work alone; the level is not changed meanwhile
  yanmo_use_level(levels - 1);
  std::vector<std::thread> callers;
  for (int i = 0; i < 3; ++i) {
    callers.emplace_back([] {
      for (int turn = 0; turn < 200; ++turn) {
        std::vector<float> x(40000, 1.0f), out(40000);
        ActivateJob job{x.data(), nullptr, out.data(), 40000, kRelu, kFloat32};
        yanmo_activate(&job, 2);
        for (float y : out) {
          if (y != 1.0f) std::abort();
        }
      }
    });
  }
  for (auto& caller : callers) caller.join();
  std::printf("%d levels, %d wrong\n", levels, wrong);
  return wrong == 0 ? 0 : 1;
}
