// Threads that wait for work.
//
// They spin for a moment after a job, since the next one of a decoding step follows within microseconds, and sleep
// otherwise. Whoever asks for work takes part in it and waits only for threads that have begun: where another program,
// or torch's own threads, hold the other cores, the caller does all the work itself, and nobody waits for a thread that
// cannot run. A caller who finds the threads busy with another caller's job works alone.
#pragma once

#include <cstdint>

namespace yanmo {

using Body = void (*)(const void* job, int64_t begin, int64_t end);

// Call body(job, begin, end) for pieces of [0, tasks), each of at most `grain` tasks, on `threads` threads. Every
// thread begins with a run of its own, so that it reads memory in one line, and takes from others when it is done.
void parallel(int threads, int64_t tasks, int64_t grain, Body body, const void* job);

}  // namespace yanmo
