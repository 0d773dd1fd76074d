// What the stand-ins for NVIDIA's libraries have in common: the driver that they work on, values, and what is alive.
#pragma once

#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <mutex>
#include <typeindex>
#include <utility>
#include <vector>

// Of the device: where, and how many bytes.
using Ranges = std::vector<std::pair<std::uint64_t, std::uint64_t>>;

// Work on a stream, of the call `name`; the driver's code when it fails.
int fake_cuda_queue(const char* name, void* stream, Ranges ranges, std::function<void()> run);

// The same of work that cannot begin before something else, on other cards, says so.
int fake_cuda_queue_when(const char* name, void* stream, Ranges ranges, std::function<bool()> ready, std::function<void()> run);

// The card whose context is this thread's.
int fake_cuda_device();

// A call that waits for the card or allocates, which needs a context and may not be made while a stream is captured. The stream, if
// any, is there.
void fake_cuda_outside(const char* name, void* stream);

enum Kind { F32, F16, BF16 };

inline std::uint64_t bytes_of(Kind kind) { return kind == F32 ? 4 : 2; }

inline float load(const void* place, Kind kind) {
  if (kind == F16) {
    _Float16 half;
    std::memcpy(&half, place, sizeof half);
    return float(half);
  }
  std::uint32_t bits = 0;
  if (kind == F32)
    std::memcpy(&bits, place, 4);
  else
    std::memcpy(reinterpret_cast<char*>(&bits) + 2, place, 2);
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

inline void store(void* place, Kind kind, float value) {
  if (kind == F16) {
    const _Float16 half = _Float16(value);
    std::memcpy(place, &half, sizeof half);
    return;
  }
  std::uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  if (kind == F32) {
    std::memcpy(place, &bits, 4);
    return;
  }
  bits = value != value ? 0x7fff0000u : bits + 0x7fffu + (bits >> 16 & 1);
  std::memcpy(place, reinterpret_cast<char*>(&bits) + 2, 2);
}

// As tensor cores take it.
inline float factor(float value, bool tf32) {
  std::uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  if (!tf32 || (bits & 0x7f800000u) == 0x7f800000u) return value;
  bits = (bits + 0x1000u) & ~0x1fffu;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

// A library: what it made and nobody gave back yet.
class Library {
 public:
  explicit Library(const char* name) : name(name) {}

  [[noreturn]] __attribute__((format(printf, 2, 3))) void misuse(const char* format, ...) const {
    std::fprintf(stderr, "fake %s: ", name);
    va_list rest;
    va_start(rest, format);
    std::vfprintf(stderr, format, rest);
    va_end(rest);
    std::fputc('\n', stderr);
    std::abort();
  }

  template <class T>
  void* make(T* one) {
    const std::lock_guard<std::mutex> locked(lock);
    alive.emplace(one, typeid(T));
    return one;
  }

  template <class T>
  T& there(void* one) {
    const std::lock_guard<std::mutex> locked(lock);
    const auto found = alive.find(one);
    if (found == alive.end()) misuse("a handle or description was given back, or never made");
    if (found->second != typeid(T)) misuse("a handle or description is of another kind");
    return *static_cast<T*>(one);
  }

  template <class T>
  void give_back(void* one) {
    delete &there<T>(one);
    const std::lock_guard<std::mutex> locked(lock);
    alive.erase(one);
  }

  // All parts of a call begin at multiples of 16 bytes, as was said of them or as tensor cores need.
  void see_aligned(const Ranges& ranges) const {
    for (const auto& [at, bytes] : ranges)
      if (at % 16) misuse("%lu bytes at %#lx do not begin at a multiple of 16 bytes", bytes, at);
  }

  // At the end of the process, whether nothing is left.
  bool is_empty() const {
    if (!alive.empty()) std::fprintf(stderr, "fake %s: not given back: %zu handles or descriptions\n", name, alive.size());
    return alive.empty();
  }

 private:
  const char* const name;
  std::mutex lock;
  std::map<void*, std::type_index> alive;
};
