// The CUDA of our kernels, on the CPU: blocks one after the other and the threads of a block as fibers, both in an order that
// is drawn. A thread runs until it waits for others. What a kernel computes must not depend on the order; where a barrier is
// missing, it does.

#include <setjmp.h>
#include <ucontext.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

namespace emulate {

struct Dim {
  unsigned x, y, z;
};

enum class State { ready, block, warp, done };

// Runs one thread after the other. It is entered once; later the jumps, which unlike contexts need no system call, switch.
struct Fiber {
  ucontext_t context;
  jmp_buf here;
  bool entered = false;
  std::unique_ptr<char[]> stack;
  Dim thread;
  State state;
};

constexpr unsigned WARP = 32;
constexpr std::size_t STACK = 64 * 1024;

// What a thread sees. One launch at a time: the caller holds a lock.
static Dim grid, block, at;
static Fiber* current;
static jmp_buf scheduler;
static std::vector<std::unique_ptr<Fiber>> fibers;
// Threads of the block.
static std::size_t count;
// Of each warp, the threads that may run.
static std::vector<std::vector<std::size_t>> ready;
static std::vector<std::uint64_t> slots;
static void (*kernel)(void**);
static void** arguments;
static std::uint64_t state = 1;

// xorshift64* (Vigna 2016).
inline std::uint64_t draw(std::uint64_t below) {
  state ^= state >> 12;
  state ^= state << 25;
  state ^= state >> 27;
  return (state * 2685821657736338717ull >> 11) % below;
}

inline unsigned linear(Dim thread) { return (thread.z * block.y + thread.y) * block.x + thread.x; }

inline void wait(State for_what) {
  current->state = for_what;
  if (!_setjmp(current->here)) _longjmp(scheduler, 1);
}

inline void body() {
  for (;;) {
    kernel(arguments);
    wait(State::done);
  }
}

__attribute__((noinline)) inline void resume(Fiber& fiber) {
  current = &fiber;
  if (_setjmp(scheduler)) return;
  if (fiber.entered) _longjmp(fiber.here, 1);
  fiber.entered = true;
  setcontext(&fiber.context);
}

inline void enter(Fiber& fiber) {
  fiber.stack.reset(new char[STACK]);
  getcontext(&fiber.context);
  fiber.context.uc_stack.ss_sp = fiber.stack.get();
  fiber.context.uc_stack.ss_size = STACK;
  fiber.context.uc_link = nullptr;
  makecontext(&fiber.context, body, 0);
}

// Lets those go on that wait for `what`, of the threads from `first` to `end`, when all that still run do; false when none does.
inline bool release(State what, std::size_t first, std::size_t end) {
  for (std::size_t i = first; i < end; ++i)
    if (fibers[i]->state != what && fibers[i]->state != State::done) return false;
  bool any = false;
  for (std::size_t i = first; i < end; ++i)
    if (fibers[i]->state == what) {
      fibers[i]->state = State::ready;
      ready[i / WARP].push_back(i);
      any = true;
    }
  return any;
}

// The next thread: in every other block any that may run; in the others the warps have an order, and the first runs as far ahead
// of the rest as it can. None when none may.
inline std::size_t next_thread(const std::vector<std::uint64_t>& rank) {
  std::size_t all = 0, best = ready.size();
  for (std::size_t warp = 0; warp < ready.size(); ++warp) {
    all += ready[warp].size();
    if (!ready[warp].empty() && (best == ready.size() || rank[warp] < rank[best])) best = warp;
  }
  if (all == 0) return count;
  std::size_t warp = best, one;
  if (rank[0] == rank[ready.size() - 1] && rank[0] == 0) {
    one = draw(all);
    for (warp = 0; one >= ready[warp].size(); ++warp) one -= ready[warp].size();
  } else {
    one = draw(ready[warp].size());
  }
  std::swap(ready[warp][one], ready[warp].back());
  const std::size_t next = ready[warp].back();
  ready[warp].pop_back();
  return next;
}

// Whether all threads of a block came to their ends.
inline bool run_block() {
  std::vector<std::uint64_t> rank(ready.size(), 0);
  if (draw(2))
    for (std::uint64_t& one : rank) one = 1 + draw(1u << 30);
  for (;;) {
    const std::size_t next = next_thread(rank);
    if (next == count) {
      if (release(State::block, 0, count)) continue;
      for (std::size_t i = 0; i < count; ++i)
        if (fibers[i]->state != State::done) return false;
      return true;
    }
    resume(*fibers[next]);
    const std::size_t first = next / WARP * WARP;
    release(State::warp, first, std::min(first + WARP, count));
  }
}

inline std::uint16_t to_f16(float value) {
  const _Float16 half = static_cast<_Float16>(value);
  std::uint16_t bits;
  std::memcpy(&bits, &half, sizeof bits);
  return bits;
}

inline float from_f16(std::uint16_t bits) {
  _Float16 half;
  std::memcpy(&half, &bits, sizeof half);
  return static_cast<float>(half);
}

inline std::uint32_t bits_of(float value) {
  std::uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

inline float float_of(std::uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

// Ten bits of mantissa: the nearest, of ties the larger one.
inline std::uint32_t to_tf32(float value) {
  const std::uint32_t bits = bits_of(value);
  return (bits & 0x7f800000u) == 0x7f800000u ? bits : (bits + 0x1000u) & ~0x1fffu;
}

inline int launch(void (*function)(void**), Dim blocks, Dim threads, void** with) {
  grid = blocks;
  block = threads;
  kernel = function;
  arguments = with;
  count = std::size_t(threads.x) * threads.y * threads.z;
  while (fibers.size() < count) {
    fibers.emplace_back(new Fiber);
    enter(*fibers.back());
  }
  ready.assign((count + WARP - 1) / WARP, {});
  slots.assign(count, 0);
  std::vector<std::uint64_t> order(std::uint64_t(blocks.x) * blocks.y * blocks.z);
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
  for (std::size_t left = order.size(); left > 0; --left) {
    std::swap(order[draw(left)], order[left - 1]);
    const std::uint64_t one = order[left - 1];
    at = {unsigned(one % grid.x), unsigned(one / grid.x % grid.y), unsigned(one / grid.x / grid.y)};
    for (std::size_t i = 0; i < count; ++i) {
      Fiber& fiber = *fibers[i];
      fiber.thread = {unsigned(i % block.x), unsigned(i / block.x % block.y), unsigned(i / block.x / block.y)};
      fiber.state = State::ready;
      ready[i / WARP].push_back(i);
    }
    if (!run_block()) {
      // They are still inside the kernel.
      fibers.clear();
      return 1;
    }
  }
  return 0;
}

template <class... A, std::size_t... I>
void call(void (*function)(A...), void** with, std::index_sequence<I...>) {
  function(*static_cast<A*>(with[I])...);
}

template <class... A>
void call(void (*function)(A...), void** with) {
  call(function, with, std::index_sequence_for<A...>{});
}

// The value of another lane, which must give one too.
template <class T>
T shuffle(T value, unsigned lane) {
  const unsigned me = linear(current->thread);
  std::memcpy(&slots[me], &value, sizeof value);
  wait(State::warp);
  const unsigned from = (me & ~(WARP - 1)) | (lane & (WARP - 1));
  T other;
  std::memcpy(&other, &slots[from < slots.size() ? from : me], sizeof other);
  wait(State::warp);
  return other;
}

// c (16, 8) += a (16, deep) · b (deep, 8), each lane with its part of all three, as PTX says of `mma.m16n8k8` and `.m16n8k16`:
// of a group of four lanes, each has two neighbours of a row of `c`.
struct Parts {
  std::uint32_t a[4], b[2];
};
static Parts parts[1024];

template <int precision>
float factor(const std::uint32_t* words, unsigned word, unsigned half) {
  if (precision == 1) return float_of(words[word]);
  const std::uint16_t bits = std::uint16_t(words[word] >> 16 * half);
  return precision == 2 ? float_of(std::uint32_t(bits) << 16) : from_f16(bits);
}

template <int precision>
void mma(float (&c)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]) {
  const unsigned me = linear(current->thread), lane = me % WARP, deep = precision == 1 ? 8 : 16, wide = deep / 8;
  const Parts* const all = parts + (me - lane);
  std::memcpy(parts[me].a, a, sizeof a);
  std::memcpy(parts[me].b, b, sizeof b);
  wait(State::warp);
  for (unsigned i = 0; i < 4; ++i) {
    const unsigned row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
    for (unsigned k = 0; k < deep; ++k) {
      const unsigned within = k % (4 * wide), later = k / (4 * wide);
      const Parts& of_row = all[row % 8 * 4 + within / wide];
      const Parts& of_column = all[column * 4 + within / wide];
      c[i] += factor<precision>(of_row.a, row / 8 + 2 * later, within % wide) *
              factor<precision>(of_column.b, later, within % wide);
    }
  }
  wait(State::warp);
}

}  // namespace emulate

struct alignas(16) float4 {
  float x, y, z, w;
};

#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __shared__ static
#define threadIdx (::emulate::current->thread)
#define blockIdx (::emulate::at)
#define blockDim (::emulate::block)
#define gridDim (::emulate::grid)

inline void __threadfence() {}
inline void __syncthreads() { emulate::wait(emulate::State::block); }

template <class T>
T __shfl_xor_sync(unsigned, T value, unsigned lanes) {
  return emulate::shuffle(value, emulate::linear(threadIdx) % emulate::WARP ^ lanes);
}

template <class T>
T atomicAdd(T* to, T value) {
  T before = *to;
  *to = before + value;
  return before;
}

inline unsigned __umulhi(unsigned a, unsigned b) { return unsigned(std::uint64_t(a) * b >> 32); }
inline float __int_as_float(int bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}
inline int __float_as_int(float value) {
  int bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}
