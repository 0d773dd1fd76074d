// What all kernels share. `PRECISION` is defined before: 0 is f32, 1 tf32, 2 bf16, 3 f16.

typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

constexpr u32 WARP = 32;

// NVRTC has no header that defines it.
__device__ __forceinline__ float infinity() { return __int_as_float(0x7f800000); }

// The nearest of 16 bits, of ties the even one: bfloat16, and the half of IEEE 754.
__device__ __forceinline__ u16 to_bf16(float value) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  u16 bits;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(value));
  return bits;
#else
  const u32 bits = u32(__float_as_int(value));
  return value != value ? 0x7fff : u16((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
#endif
}

__device__ __forceinline__ u16 to_f16(float value) {
#ifdef __CUDA_ARCH__
  u16 bits;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
  return bits;
#else
  return emulate::to_f16(value);
#endif
}

#if PRECISION >= 2
__device__ __forceinline__ u16 to_bits(float value) { return PRECISION == 2 ? to_bf16(value) : to_f16(value); }

__device__ __forceinline__ float from_bits(u16 bits) {
#if PRECISION == 2
  return __int_as_float(int(u32(bits) << 16));
#elif defined(__CUDA_ARCH__)
  float value;
  asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
  return value;
#else
  return emulate::from_f16(bits);
#endif
}

// A value between layers.
struct real {
  u16 bits;
  real() = default;
  __device__ __forceinline__ real(float value) : bits(to_bits(value)) {}
  __device__ __forceinline__ operator float() const { return from_bits(bits); }
};
#else
typedef float real;
#endif

// The sum over a warp, in every lane.
template <class T>
__device__ __forceinline__ T warp_sum(T value) {
  for (u32 lanes = WARP / 2; lanes > 0; lanes /= 2) value += __shfl_xor_sync(0xffffffffu, value, lanes);
  return value;
}

__device__ __forceinline__ float warp_max(float value) {
  for (u32 lanes = WARP / 2; lanes > 0; lanes /= 2) value = fmaxf(value, __shfl_xor_sync(0xffffffffu, value, lanes));
  return value;
}

// The sum over a block of whole warps, in every thread; always in the same order.
template <class T>
__device__ T block_sum(T value) {
  __shared__ T sums[WARP];
  const u32 warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
  value = warp_sum(value);
  // Who was here before may still read.
  __syncthreads();
  if (lane == 0) sums[warp] = value;
  __syncthreads();
  return warp_sum(lane < blockDim.x / WARP ? sums[lane] : T(0));
}

// Whether this block is the last of the `splits` of a tile to have written its part.
__device__ __forceinline__ bool comes_last(u32* arrived, u64 tile, u32 splits) {
  __shared__ u32 before;
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) {
    before = atomicAdd(&arrived[tile], 1u);
    // Whoever uses it next begins anew.
    if (before + 1 == splits) arrived[tile] = 0;
  }
  __syncthreads();
  __threadfence();
  return before + 1 == splits;
}

// The elements of a vector that are this thread's.
#define EACH(i, len) \
  for (u64 i = u64(blockIdx.x) * blockDim.x + threadIdx.x; i < (len); i += u64(gridDim.x) * blockDim.x)

// `f` of each of them, for kernels that divide: numbers of 32 bits where they reach, which divide several times as fast.
template <class F>
__device__ __forceinline__ void each(u64 len, F f) {
  const u32 first = blockIdx.x * blockDim.x + threadIdx.x, step = gridDim.x * blockDim.x;
  if (len <= 0xffffffffu - step) {
    for (u32 i = first; i < u32(len); i += step) f(i);
  } else {
    for (u64 i = first; i < len; i += step) f(i);
  }
}

// As `native/engine/src/cuda/lower.rs` numbers them.
enum Activation : u32 { NONE, RELU, TANH, SIGMOID, GELU };

// max(x, 0), NaN for NaN.
__device__ __forceinline__ float relu(float x) { return x <= 0.0f ? 0.0f : x; }

__device__ __forceinline__ float below(float x) { return 0.5f * erfcf(-x * 0.70710678f); }

__device__ __forceinline__ float activated(u32 activation, float x) {
  switch (activation) {
    case RELU: return relu(x);
    case TANH: return tanhf(x);
    case SIGMOID: return 1.0f / (1.0f + expf(-x));
    case GELU: return x * below(x);
    default: return x;
  }
}

// The gradient by the result as one by the operand. `seen` is the result; of GELU the operand.
__device__ __forceinline__ float slope(u32 activation, float g, float seen) {
  switch (activation) {
    case RELU: return seen <= 0.0f ? 0.0f : g;
    case TANH: return g * (1.0f - seen * seen);
    case SIGMOID: return g * seen * (1.0f - seen);
    case GELU: return g * (below(seen) + seen * expf(-0.5f * seen * seen) * 0.39894228f);
    default: return g;
  }
}
