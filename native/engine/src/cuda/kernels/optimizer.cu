// One pass over weights, gradient and state, or over the `rows` of a table, each `dims` wide, that a step has touched: as many
// as `count` says, where it is not null. No multiplication is fused with an addition (compiled so): the bits are those of the
// CPU. `now` has what changes from step to step. The gradient is a sum, whose mean is over the batch's weight. Nothing is done
// in a step whose rows weigh nothing, or whose gradient has overflowed.

// The scale of f16's losses, so that small gradients are not lost. A step that overflows is left out and halves it, many that
// do not double it (Micikevicius et al. 2018).
struct Overflow {
  float scale;
  u32 found, quiet, skipped;
};

// Sums over the rows of a batch.
struct Totals {
  double loss, weight;
  Overflow overflow;
};

#if PRECISION == 3
#define MEAN(g) ((g) / totals.overflow.scale * mean)
#define SKIPPED (!(totals.weight > 0.0) || totals.overflow.found)
#else
#define MEAN(g) ((g) * mean)
#define SKIPPED !(totals.weight > 0.0)
#endif

#define TOTALS                   \
  const Totals totals = *sums;   \
  const float mean = float(1.0 / totals.weight);  \
  if (SKIPPED) return

template <class I>
__device__ __forceinline__ u64 place(I i, const u32* rows, u32 dims) {
  return rows ? u64(rows[i / dims]) * dims + i % dims : u64(i);
}

struct Sgd {
  float learning_rate, decay;

  __device__ __forceinline__ float gradient(float w, float g) const { return g + decay * w; }
};

// `keep`: what AdamW's decay leaves of a weight. `follow`: 1 − β. `step`, `root`: the learning rate over the first moment's
// bias, and 1 over the root of the second's.
struct Adam {
  float decay, keep, follow1, beta2, follow2, step, root, epsilon;

  __device__ __forceinline__ void update(float& w, float g, float& first, float& second) const {
    g += decay * w;
    const float m = first + (g - first) * follow1;
    const float v = second * beta2 + g * g * follow2;
    first = m;
    second = v;
    w = w * keep - step * m / (sqrtf(v) * root + epsilon);
  }
};

extern "C" __global__ void sgd(float* weights, const float* gradient, u64 len, const u32* rows, u32 dims, const u32* count,
                               const Sgd* now, const Totals* sums) {
  const Sgd sgd = *now;
  TOTALS;
  if (count) len = u64(*count) * dims;
  each(len, [=](auto n) {
    const u64 i = place(n, rows, dims);
    const float w = weights[i];
    weights[i] = w - sgd.learning_rate * sgd.gradient(w, MEAN(gradient[i]));
  });
}

extern "C" __global__ void sgd_momentum(float* weights, const float* gradient, float* running, u64 len, const u32* rows,
                                        u32 dims, const u32* count, const Sgd* now, const Totals* sums, float momentum,
                                        u32 nesterov) {
  const Sgd sgd = *now;
  TOTALS;
  if (count) len = u64(*count) * dims;
  each(len, [=](auto n) {
    const u64 i = place(n, rows, dims);
    const float w = weights[i], g = sgd.gradient(w, MEAN(gradient[i]));
    const float r = momentum * running[i] + g;
    running[i] = r;
    weights[i] = w - sgd.learning_rate * (nesterov ? g + momentum * r : r);
  });
}

extern "C" __global__ void adam(float* weights, const float* gradient, float* first, float* second, u64 len, const u32* rows,
                                u32 dims, const u32* count, const Adam* now, const Totals* sums) {
  const Adam adam = *now;
  TOTALS;
  if (count) len = u64(*count) * dims;
  if (!rows && len % 4 == 0) {
    float4* const w = reinterpret_cast<float4*>(weights);
    float4* const m = reinterpret_cast<float4*>(first);
    float4* const v = reinterpret_cast<float4*>(second);
    const float4* const g = reinterpret_cast<const float4*>(gradient);
    EACH(i, len / 4) {
      float4 a = w[i], b = m[i], c = v[i];
      const float4 d = g[i];
      adam.update(a.x, MEAN(d.x), b.x, c.x);
      adam.update(a.y, MEAN(d.y), b.y, c.y);
      adam.update(a.z, MEAN(d.z), b.z, c.z);
      adam.update(a.w, MEAN(d.w), b.w, c.w);
      w[i] = a;
      m[i] = b;
      v[i] = c;
    }
    return;
  }
  each(len, [=](auto n) {
    const u64 i = place(n, rows, dims);
    adam.update(weights[i], MEAN(gradient[i]), first[i], second[i]);
  });
}

// Notes whether a gradient is no number any more; `count` and `rows` as above.
extern "C" __global__ void find_overflow(const float* gradient, u64 len, const u32* rows, u32 dims, const u32* count,
                                         Overflow* state) {
  if (count) len = u64(*count) * dims;
  each(len, [=](auto n) {
    const float g = gradient[place(n, rows, dims)];
    if (!(fabsf(g) < infinity())) state->found = 1;
  });
}

// Gradients as if there had been no scale, and none after an overflow.
extern "C" __global__ void unscale(float* gradient, u64 len, const u32* rows, u32 dims, const u32* count, const Overflow* state) {
  if (count) len = u64(*count) * dims;
  each(len, [=](auto n) {
    const u64 i = place(n, rows, dims);
    gradient[i] = state->found ? 0.0f : gradient[i] / state->scale;
  });
}

// After a step: the next scale.
extern "C" __global__ void settle_overflow(Overflow* state) {
  if (blockIdx.x || threadIdx.x) return;
  state->quiet = state->found ? 0 : state->quiet + 1;
  if (state->found) {
    ++state->skipped;
    state->scale = fmaxf(state->scale * 0.5f, 1.0f);
  } else if (state->quiet == 2000) {
    state->scale = fminf(state->scale * 2.0f, 16777216.0f);
    state->quiet = 0;
  }
  state->found = 0;
}

// Rows of a table to a list and back: what a worker says to others of a step.
extern "C" __global__ void pack(const float* table, const u32* rows, float* to, u64 len, u32 dims) {
  each(len, [=](auto i) { to[i] = table[place(i, rows, dims)]; });
}

extern "C" __global__ void unpack(const float* from, const u32* rows, float* table, u64 len, u32 dims) {
  each(len, [=](auto i) { table[place(i, rows, dims)] = from[i]; });
}
