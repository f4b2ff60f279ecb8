// Training's passes for every processor.
#include "common.h"
#include "train.h"

#if defined(__GNUC__) || defined(__clang__)
#include <cstring>

#define YANMO_BYTES 16

namespace yanmo {
namespace {

#include "train.inl"

}  // namespace

extern const TrainLevel train_plain;
const TrainLevel train_plain = YANMO_TRAIN;

}  // namespace yanmo
#endif
