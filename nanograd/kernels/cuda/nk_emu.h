// A block of CUDA threads on one CPU thread: every thread is a fiber that runs until it waits for others, so barriers
// and warp collectives have their real meaning, and who runs when is ours to choose. What is wrong under one order of
// threads that the device allows is wrong on the device, sooner or later.
//
// Reported by name: a barrier in a divergent branch (with its lines), warp collectives that do not meet, deadlock,
// misaligned wide accesses. Shared memory begins as NaN. Blocks run one after another, in the schedule's order.
// Not emulated: weak memory order within what one thread does between two waits, bank conflicts, speed.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <deque>
#include <functional>
#include <random>
#include <string>
#include <type_traits>

#include "nk_emu_fibers.h"

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef unsigned long long u64;
typedef long long i64;

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
};

namespace nk {

constexpr unsigned MAX_THREADS = 1024;
constexpr size_t MAX_SHARED = 163 * 1024;  // bytes per block on sm_80; newer ones have as much or more

// In which order threads (and blocks) run.
//   skew   one warp runs as far ahead as it can before the next one starts: the worst that the device may show
//   eager  a copy_async lands when it is issued; otherwise when it is waited for. The device may do either
struct Schedule {
  enum Order { ASCENDING, DESCENDING, RANDOM } order = ASCENDING;
  unsigned seed = 0;
  bool eager = false, skew = false;
};

struct Copy {
  void* to;
  const void* from;
  int bytes, width;  // so many bytes of so many that are written; the rest are zeros
};

struct Thread {
  Flow flow;
  unsigned number = 0;  // in the block
  dim3 index;
  bool done = false;
  int barrier_line = 0;  // where it waits; 0 if it does not
  std::vector<Copy> open;
  std::deque<std::vector<Copy>> groups;
};

constexpr int WORDS = 6;

// Where the lanes of one mask exchange words. Two tables: a lane may already bring words for the next exchange while
// another has not read those of the last.
struct Meeting {
  u32 mask = 0, arrived = 0;
  unsigned round = 0;
  int line = 0;
  u32 came[2] = {};
  u64 words[2][32][WORDS];
};

struct Warp {
  u32 live = 0;  // lanes that have not returned
  std::deque<Meeting> meetings;
};

struct Block {
  dim3 grid, size, index;
  Schedule schedule;
  unsigned live = 0, waiting = 0, barriers = 0;
  u64 progress = 0;  // arrivals and returns: when none comes any more, the block is dead
  std::vector<Thread> threads;
  std::vector<Warp> warps;
  char* dynamic_shared = nullptr;
  size_t dynamic_bytes = 0, shared_bytes = 0;
  std::vector<std::pair<const void*, char*>> static_shared;
  Flow scheduler;
  std::function<void()> kernel;
  std::string error;
};

inline Block*& block() {
  static thread_local Block* now = nullptr;
  return now;
}

inline Thread*& thread() {
  static thread_local Thread* now = nullptr;
  return now;
}

inline unsigned lane() { return thread()->number % 32; }
inline Warp& warp() { return block()->warps[thread()->number / 32]; }

inline void yield() { switch_flow(thread()->flow, block()->scheduler); }

// Ends the launch: no thread runs on after this one.
inline void fail(const std::string& why) {
  if (block()->error.empty()) block()->error = why;
  for (;;) yield();
}

inline std::string lines(int a, int b) { return "lines " + std::to_string(a) + " and " + std::to_string(b); }

// ---- Waiting for each other

// __syncthreads: all threads of the block that have not returned meet, at one and the same line.
inline void barrier(int line) {
  Block& b = *block();
  thread()->barrier_line = line;
  unsigned mine = b.barriers;
  b.waiting++, b.progress++;
  while (b.barriers == mine && b.waiting < b.live) yield();
  if (b.barriers != mine) return;
  for (Thread& t : b.threads) {
    if (!t.done && t.barrier_line != line) fail("divergent __syncthreads: " + lines(line, t.barrier_line));
    t.barrier_line = 0;
  }
  b.barriers++, b.waiting = 0;
}

inline Meeting& meeting_of(u32 mask) {
  auto& all = warp().meetings;
  for (Meeting& m : all)
    if (m.mask == mask) return m;
  all.emplace_back().mask = mask;
  return all.back();
}

// What the lanes of a mask have brought to one exchange.
struct Exchange {
  const Meeting& meeting;
  unsigned table;
  u64 word(unsigned from, int i) const {  // a lane that has returned, or was not named, brings nothing
    return meeting.came[table] >> from & 1 ? meeting.words[table][from][i] : ~u64(0);
  }
};

// Every warp collective: each lane of `mask` brings `count` words, and may then read what any other has brought.
inline Exchange exchange(u32 mask, const u64* mine, int count, int line) {
  if (!(mask >> lane() & 1)) fail("line " + std::to_string(line) + ": a lane that its own mask does not name");
  Meeting& m = meeting_of(mask);
  if (m.arrived && m.line != line) fail("divergent warp collective: " + lines(m.line, line));
  unsigned round = m.round, table = round & 1;
  std::copy(mine, mine + count, m.words[table][lane()]);
  m.arrived |= 1u << lane(), m.line = line, block()->progress++;
  while (m.round == round && m.arrived != (mask & warp().live)) yield();
  if (m.round == round) m.came[table] = m.arrived, m.arrived = 0, m.round++;
  return {m, table};
}

template <class T>
T shuffle(u32 mask, T value, unsigned from, int line) {
  static_assert(sizeof(T) <= 8, "a shuffle moves at most 64 bits");
  u64 word = 0;
  memcpy(&word, &value, sizeof(T));
  word = exchange(mask, &word, 1, line).word(from % 32, 0);
  memcpy(&value, &word, sizeof(T));
  return value;
}

// ---- Shared memory

inline char* new_shared(size_t bytes) {
  Block& b = *block();
  b.shared_bytes += bytes;
  void* p = nullptr;
  if (posix_memalign(&p, 128, bytes)) abort();
  return static_cast<char*>(memset(p, 0xff, bytes));  // every float type's NaN
}

inline void* static_shared(const void* variable, size_t bytes) {
  Block& b = *block();
  for (auto& [known, memory] : b.static_shared)
    if (known == variable) return memory;
  char* memory = new_shared(bytes);
  b.static_shared.push_back({variable, memory});
  if (b.shared_bytes > MAX_SHARED) fail("more than 163 KB of shared memory in a block");
  return memory;
}

inline void free_shared(Block& b) {
  for (auto& entry : b.static_shared) free(entry.second);
  free(b.dynamic_shared);
  b.static_shared.clear();
}

// ---- Running a block

inline void thread_main() {
  Block& b = *block();
  arrive(b.scheduler);
  b.kernel();
  thread()->done = true;
  warp().live &= ~(1u << lane());
  b.live--, b.progress++;
  for (;;) yield();
}

inline void set_up(Block& b) {
  static thread_local Stacks stacks;
  unsigned n = b.size.x * b.size.y * b.size.z;
  b.live = n, b.waiting = 0, b.shared_bytes = 0;
  b.threads.assign(n, {});
  b.warps.assign((n + 31) / 32, {});
  b.dynamic_shared = b.dynamic_bytes ? new_shared(b.dynamic_bytes) : nullptr;
  for (unsigned i = 0; i < n; i++) {
    Thread& t = b.threads[i];
    t.number = i;
    t.index = {i % b.size.x, i / b.size.x % b.size.y, i / (b.size.x * b.size.y)};
    b.warps[i / 32].live |= 1u << i % 32;
    prepare(t.flow, stacks[i], thread_main);
  }
}

inline void resume(Block& b, unsigned i) {
  if (b.threads[i].done || !b.error.empty()) return;
  thread() = &b.threads[i];
  switch_flow(b.scheduler, thread()->flow);
}

// 0 … n − 1 in the schedule's order
inline std::vector<unsigned> in_order(unsigned n, Schedule::Order order, std::mt19937& random) {
  std::vector<unsigned> all(n);
  for (unsigned i = 0; i < n; i++) all[i] = order == Schedule::DESCENDING ? n - 1 - i : i;
  if (order == Schedule::RANDOM) std::shuffle(all.begin(), all.end(), random);
  return all;
}

// All lanes again and again, until each of them waits for another warp or has returned.
inline void run_warp_ahead(Block& b, unsigned warp, std::mt19937& random) {
  unsigned lanes = std::min(32u, unsigned(b.threads.size()) - warp * 32);
  for (u64 before = b.progress - 1; before != b.progress && b.error.empty();) {
    before = b.progress;
    for (unsigned i : in_order(lanes, b.schedule.order, random)) resume(b, warp * 32 + i);
  }
}

inline void run_block(Block& b, std::mt19937& random) {
  block() = &b;
  set_up(b);
  while (b.live && b.error.empty()) {
    u64 before = b.progress;
    if (b.schedule.skew)
      for (unsigned w : in_order(b.warps.size(), b.schedule.order, random)) run_warp_ahead(b, w, random);
    else
      for (unsigned i : in_order(b.threads.size(), b.schedule.order, random)) resume(b, i);
    if (b.progress == before && b.error.empty())
      b.error = "deadlock: some threads never reach the barrier or warp collective where the others wait";
  }
  free_shared(b);
}

inline void run_grid(Block& b) {
  std::mt19937 random(b.schedule.seed);
  const dim3& g = b.grid;
  for (unsigned i : in_order(g.x * g.y * g.z, b.schedule.order, random)) {
    b.index = {i % g.x, i / g.x % g.y, i / (g.x * g.y)};
    run_block(b, random);
    if (!b.error.empty()) {
      b.error += " (block " + std::to_string(b.index.x) + ", " + std::to_string(b.index.y) + ")";
      return;
    }
  }
}

// ---- Called from Python

struct Launch {  // as nanograd/kernels/cuda/emulation.py lays it out
  unsigned grid[3], block[3];
  unsigned order, seed, eager, skew;
  u64 shared;
};

template <class... A, size_t... I>
void call(void (*kernel)(A...), void** arguments, std::index_sequence<I...>) {
  kernel(*static_cast<std::remove_const_t<A>*>(arguments[I])...);
}

template <class... A>
std::string launch(void (*kernel)(A...), const Launch& how, void** arguments) {
  Block b;
  b.grid = {how.grid[0], how.grid[1], how.grid[2]};
  b.size = {how.block[0], how.block[1], how.block[2]};
  b.dynamic_bytes = how.shared;
  b.schedule = {Schedule::Order(how.order), how.seed, how.eager != 0, how.skew != 0};
  b.kernel = [=] { call(kernel, arguments, std::index_sequence_for<A...>{}); };
  if (b.size.x * b.size.y * b.size.z > MAX_THREADS) return "more than 1024 threads in a block";
  if (b.dynamic_bytes > MAX_SHARED) return "more than 163 KB of shared memory in a block";
  run_grid(b);
  return b.error;
}

}  // namespace nk
