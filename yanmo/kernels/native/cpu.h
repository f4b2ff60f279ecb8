// The levels of processor that this library was built for, and which of them this processor has.
#pragma once

#include "common.h"

namespace yanmo {

// From the plainest to the fastest; null past the last one that this processor can run.
const Level* const* levels();

}  // namespace yanmo
