// Activations on any shape, sums, dropout, and weights in the precision of the values that they meet.

extern "C" __global__ void activate(const real* from, real* to, u64 len, u32 activation) {
  EACH(i, len) to[i] = activated(activation, from[i]);
}

extern "C" __global__ void activate_backward(const real* gradient, const real* seen, real* to, u64 len, u32 activation,
                                             u32 add) {
  EACH(i, len) {
    const float g = slope(activation, gradient[i], seen[i]);
    to[i] = add ? float(to[i]) + g : g;
  }
}

// `values` (rows, features, inner): adds a bias a feature, where it is not null, then activates.
extern "C" __global__ void bias_activate(real* values, const float* bias, u64 len, u32 features, u32 inner, u32 activation) {
  each(len, [=](auto i) { values[i] = activated(activation, bias ? values[i] + bias[i / inner % features] : float(values[i])); });
}

extern "C" __global__ void widen(const real* from, float* to, u64 len) {
  EACH(i, len) to[i] = from[i];
}

extern "C" __global__ void accumulate(const real* from, real* to, u64 len, u32 add) {
  EACH(i, len) to[i] = add ? float(to[i]) + float(from[i]) : float(from[i]);
}

extern "C" __global__ void round_weights(const float* from, real* to, u64 len) {
  EACH(i, len) to[i] = from[i];
}

// A part of the gradient, for a way that is narrow.
extern "C" __global__ void narrow(const float* from, u16* to, u64 len, u32 half) {
  EACH(i, len) to[i] = half ? to_f16(from[i]) : to_bf16(from[i]);
}

// Philox4x32-10 (Salmon et al. 2011), word for word that of the CPU.
__device__ __forceinline__ void philox(u32 (&c)[4], u32 k, u32 l) {
  for (int round = 0; round < 10; ++round) {
    const u32 high0 = __umulhi(0xD2511F53u, c[0]), low0 = 0xD2511F53u * c[0];
    const u32 high1 = __umulhi(0xCD9E8D57u, c[2]), low1 = 0xCD9E8D57u * c[2];
    const u32 b = c[1], d = c[3];
    c[0] = high1 ^ b ^ k;
    c[1] = low1;
    c[2] = high0 ^ d ^ l;
    c[3] = low0;
    k += 0x9E3779B9u;
    l += 0xBB67AE85u;
  }
}

// Values (rows, features), or their gradients on the way back, which meet the same words. A word below `bound` drops; `kept` is
// 1/(1−rate). `key` has two words.
extern "C" __global__ void dropout(const real* from, real* to, const u64* positions, const u32* key, u64 rows, u32 features,
                                   u32 bound, float kept, u32 add) {
  const u32 fours = (features + 3) / 4, key0 = key[0], key1 = key[1];
  each(rows * fours, [=](auto i) {
    const auto row = i / fours;
    const u32 four = u32(i % fours);
    const u64 position = positions[row];
    u32 words[4] = {u32(position), u32(position >> 32), four, 0};
    philox(words, key0, key1);
#pragma unroll
    for (u32 j = 0; j < 4; ++j) {
      if (four * 4 + j >= features) break;
      const u64 place = u64(row) * features + four * 4 + j;
      const float value = float(from[place]) * (words[j] < bound ? 0.0f : kept);
      to[place] = add ? float(to[place]) + value : value;
    }
  });
}
