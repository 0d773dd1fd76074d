// Products of matrices, and convolutions as products with patches that are never written out. A block of 256 threads makes a
// tile of the result, each thread 16 values of it; sums run in one order, on tensor cores where the precision is theirs.

constexpr u32 TILE = 64;

// How the places of a result are divided: `splits` blocks a tile, each with a part of the sum. The last of them to come adds the
// parts up, in their order.
struct Work {
  u64 groups, m, k;
  u32 n, splits;
  float* parts;
  u32* arrived;
};

#if PRECISION == 0

constexpr u32 DEPTH = 16;

// A thread has 4×4 neighbours.
__device__ __forceinline__ u32 row_of(u32 slot) { return threadIdx.x / 16 * 4 + slot / 4; }
__device__ __forceinline__ u32 column_of(u32 slot) { return threadIdx.x % 16 * 4 + slot % 4; }

struct Factors {
  alignas(16) float values[DEPTH][TILE + 4];
  __device__ __forceinline__ void set(u32 side, u32 depth, float value) { values[depth][side] = value; }
};

__device__ __forceinline__ void add_products(const Factors& a, const Factors& b, float (&sums)[16]) {
  const u32 y = row_of(0), x = column_of(0);
#pragma unroll
  for (u32 depth = 0; depth < DEPTH; ++depth) {
    const float4 p = *reinterpret_cast<const float4*>(&a.values[depth][y]);
    const float4 q = *reinterpret_cast<const float4*>(&b.values[depth][x]);
    const float rows[4] = {p.x, p.y, p.z, p.w}, columns[4] = {q.x, q.y, q.z, q.w};
#pragma unroll
    for (u32 slot = 0; slot < 16; ++slot) sums[slot] += rows[slot / 4] * columns[slot % 4];
  }
}

#else

// A warp has 16×32 places, as four results of `mma` side by side.
__device__ __forceinline__ u32 row_of(u32 slot) {
  return threadIdx.x / WARP / 2 * 16 + threadIdx.x % WARP / 4 + (slot & 2 ? 8 : 0);
}
__device__ __forceinline__ u32 column_of(u32 slot) {
  return threadIdx.x / WARP % 2 * 32 + slot / 4 * 8 + threadIdx.x % 4 * 2 + slot % 2;
}

#if PRECISION == 1
// A word a factor, 8 deep.
constexpr u32 DEPTH = 16, WORDS = DEPTH, DEEP = 8;

__device__ __forceinline__ u32 factor(float value) {
#ifdef __CUDA_ARCH__
  u32 bits;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(value));
  return bits;
#else
  return emulate::to_tf32(value);
#endif
}
typedef u32 Factor;
#define MMA "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32"
#else
// Two factors a word, 16 deep.
constexpr u32 DEPTH = 32, WORDS = DEPTH / 2, DEEP = 8;

__device__ __forceinline__ u16 factor(float value) { return to_bits(value); }
typedef u16 Factor;
#if PRECISION == 2
#define MMA "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32"
#else
#define MMA "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32"
#endif
#endif

struct Factors {
  // Four words more, so that the lanes of a warp read from 32 banks.
  u32 words[TILE][WORDS + 4];
  __device__ __forceinline__ void set(u32 side, u32 depth, float value) {
    reinterpret_cast<Factor*>(words[side])[depth] = factor(value);
  }
};

__device__ __forceinline__ void mma(float (&c)[4], const u32 (&a)[4], const u32 (&b)[2]) {
#ifdef __CUDA_ARCH__
  asm volatile(MMA " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
  emulate::mma<PRECISION>(c, a, b);
#endif
}

__device__ __forceinline__ void add_products(const Factors& a, const Factors& b, float (&sums)[16]) {
  const u32 row = row_of(0), column = threadIdx.x / WARP % 2 * 32 + threadIdx.x % WARP / 4, word = threadIdx.x % 4;
  for (u32 first = 0; first < WORDS; first += DEEP) {
    const u32 x[4] = {a.words[row][first + word], a.words[row + 8][first + word], a.words[row][first + word + 4],
                      a.words[row + 8][first + word + 4]};
#pragma unroll
    for (u32 part = 0; part < 4; ++part) {
      const u32 y[2] = {b.words[column + part * 8][first + word], b.words[column + part * 8][first + word + 4]};
      float c[4] = {sums[part * 4], sums[part * 4 + 1], sums[part * 4 + 2], sums[part * 4 + 3]};
      mma(c, x, y);
#pragma unroll
      for (u32 i = 0; i < 4; ++i) sums[part * 4 + i] = c[i];
    }
  }
}

#endif

// A factor's values for a tile, on their way from memory. `from` has places of the tile's sides, and the value of one at a depth.
// Of neighbouring threads, those of a `deep` one read along the depth, others along the sides.
template <class F>
struct Ahead {
  static constexpr u32 EACH_ONE = TILE * DEPTH / 256;
  float values[EACH_ONE];

  __device__ __forceinline__ static u32 side(u32 deep, u32 nth) {
    const u32 i = threadIdx.x + nth * 256;
    return deep ? i / DEPTH : i % TILE;
  }
  __device__ __forceinline__ static u32 depth(u32 deep, u32 nth) {
    const u32 i = threadIdx.x + nth * 256;
    return deep ? i % DEPTH : i / TILE;
  }

  __device__ __forceinline__ void load(const F& from, u32 deep, u64 group, u64 top, u64 sides, u64 first, u64 end) {
#pragma unroll
    for (u32 nth = 0; nth < EACH_ONE; ++nth) {
      const u64 i = top + side(deep, nth), l = first + depth(deep, nth);
      values[nth] = i < sides && l < end ? float(from.get(from.place(group, i), l)) : 0.0f;
    }
  }

  __device__ __forceinline__ void store(Factors& to, u32 deep) const {
#pragma unroll
    for (u32 nth = 0; nth < EACH_ONE; ++nth) to.set(side(deep, nth), depth(deep, nth), values[nth]);
  }
};

// `write(group, i, j, sum)` for every place of (m, n) of every group, the sum of a(i, l)·b(l, j) over the `k` of l.
template <class A, class B, class C>
__device__ __forceinline__ void multiply(const Work& work, u32 deep_a, u32 deep_b, const A& a, const B& b, C write) {
  __shared__ Factors rows, columns;
  const u64 across = (work.n + TILE - 1) / TILE, tiles = (work.m + TILE - 1) / TILE * across;
  const u64 share = ((work.k + work.splits - 1) / work.splits + DEPTH - 1) / DEPTH * DEPTH;
  const u64 all = work.groups * tiles * work.splits;
  for (u64 one = blockIdx.x; one < all; one += gridDim.x) {
    const u64 tile = one / work.splits, group = tile / tiles, split = one % work.splits;
    const u64 top = tile % tiles / across * TILE;
    const u64 left = tile % tiles % across * TILE;
    const u64 begin = split * share, end = begin + share < work.k ? begin + share : work.k;
    float sums[16] = {};
    Ahead<A> of_rows;
    Ahead<B> of_columns;
    of_rows.load(a, deep_a, group, top, work.m, begin, end);
    of_columns.load(b, deep_b, group, left, work.n, begin, end);
    for (u64 first = begin; first < end; first += DEPTH) {
      // What came before is still read.
      __syncthreads();
      of_rows.store(rows, deep_a);
      of_columns.store(columns, deep_b);
      __syncthreads();
      // The next come while these are multiplied.
      of_rows.load(a, deep_a, group, top, work.m, first + DEPTH, end);
      of_columns.load(b, deep_b, group, left, work.n, first + DEPTH, end);
      add_products(rows, columns, sums);
    }
    if (work.splits > 1) {
      float* const parts = work.parts + tile * work.splits * TILE * TILE;
#pragma unroll
      for (u32 slot = 0; slot < 16; ++slot) parts[split * TILE * TILE + slot * blockDim.x + threadIdx.x] = sums[slot];
      if (!comes_last(work.arrived, tile, work.splits)) continue;
#pragma unroll
      for (u32 slot = 0; slot < 16; ++slot) {
        float sum = 0.0f;
        for (u32 part = 0; part < work.splits; ++part) sum += parts[u64(part) * TILE * TILE + slot * blockDim.x + threadIdx.x];
        sums[slot] = sum;
      }
    }
#pragma unroll
    for (u32 slot = 0; slot < 16; ++slot) {
      const u64 i = top + row_of(slot);
      const u32 j = u32(left) + column_of(slot);
      if (i < work.m && j < work.n) write(group, i, j, sums[slot]);
    }
  }
}

// (m, k) by (k, n); a step along each axis of `a` and `b` is so many values.
struct Matrices {
  u64 a_row, a_column, b_row, b_column;
};

struct Matrix {
  const real* values;
  u64 side, depth;
  __device__ __forceinline__ const real* place(u64, u64 i) const { return values + i * side; }
  __device__ __forceinline__ real get(const real* from, u64 l) const { return from[l * depth]; }
};

template <class W>
__device__ __forceinline__ void multiply_matrices(const real* a, const real* b, const Matrices& s, const Work& work, W write) {
  multiply(work, s.a_column == 1, s.b_row == 1, Matrix{a, s.a_row, s.a_column}, Matrix{b, s.b_column, s.b_row}, write);
}

// `bias` may be null.
extern "C" __global__ void product(const real* a, const real* b, Matrices steps, real* to, const float* bias, u32 activation,
                                   u32 add, Work work) {
  multiply_matrices(a, b, steps, work, [=](u64, u64 i, u32 j, float sum) {
    sum = activated(activation, bias ? sum + bias[j] : sum);
    to[i * work.n + j] = add ? float(to[i * work.n + j]) + sum : sum;
  });
}

extern "C" __global__ void product_weight(const real* a, const real* b, Matrices steps, float* to, Work work) {
  multiply_matrices(a, b, steps, work, [=](u64, u64 i, u32 j, float sum) { to[i * work.n + j] = sum; });
}

// Of images (rows, groups·channels, height, width) to (rows, groups·outputs, out_height, out_width) by weights
// (groups·outputs, channels, kernel). There are fewer than 2³² positions in all rows.
struct Convolution {
  int groups, channels, outputs, height, width, out_height, out_width, kernel[2], stride[2], padding[2];

  __device__ u32 taps() const { return u32(channels * kernel[0] * kernel[1]); }
  __device__ u32 window() const { return u32(kernel[0] * kernel[1]); }
  __device__ u32 positions() const { return u32(out_height) * u32(out_width); }
  __device__ u32 pixels() const { return u32(height) * u32(width); }
};

// Where a window lies: its images, and its upper left corner, which may be outside.
struct Corner {
  const real* image;
  int y, x;
};

__device__ __forceinline__ Corner corner(const Convolution& c, const real* images, u64 group, u32 position) {
  const u32 row = position / c.positions(), within = position % c.positions();
  return {images + (u64(row) * c.groups + group) * c.channels * c.pixels(),
          int(within / u32(c.out_width)) * c.stride[0] - c.padding[0],
          int(within % u32(c.out_width)) * c.stride[1] - c.padding[1]};
}

// What a window has under a tap.
__device__ __forceinline__ float under(const Convolution& c, const Corner& at, u32 tap) {
  const u32 channel = tap / c.window(), place = tap % c.window();
  const int y = at.y + int(place / u32(c.kernel[1])), x = at.x + int(place % u32(c.kernel[1]));
  if (y < 0 || y >= c.height || x < 0 || x >= c.width) return 0.0f;
  return at.image[u64(channel) * c.pixels() + u32(y) * u32(c.width) + u32(x)];
}

// The result of the first output of a group at a position.
__device__ __forceinline__ u64 place_of(const Convolution& c, u64 group, u32 position) {
  return (u64(position / c.positions()) * c.groups + group) * c.outputs * c.positions() + position % c.positions();
}

// Sides are positions, depths taps.
struct Patches {
  Convolution c;
  const real* images;
  __device__ __forceinline__ Corner place(u64 group, u64 i) const { return corner(c, images, group, u32(i)); }
  __device__ __forceinline__ float get(const Corner& at, u64 l) const { return under(c, at, u32(l)); }
};

// Sides are taps, depths positions.
struct Taps {
  Convolution c;
  const real* images;
  struct Place {
    u64 group;
    u32 tap;
  };
  __device__ __forceinline__ Place place(u64 group, u64 j) const { return {group, u32(j)}; }
  __device__ __forceinline__ float get(const Place& at, u64 l) const { return under(c, corner(c, images, at.group, u32(l)), at.tap); }
};

// Sides are outputs, depths taps, or positions of their results.
struct Filters {
  Convolution c;
  const real* weight;
  __device__ __forceinline__ const real* place(u64 group, u64 j) const { return weight + (group * c.outputs + j) * c.taps(); }
  __device__ __forceinline__ real get(const real* from, u64 l) const { return from[l]; }
};

struct Results {
  Convolution c;
  const real* gradient;
  struct Place {
    u64 group, output;
  };
  __device__ __forceinline__ Place place(u64 group, u64 i) const { return {group, i}; }
  __device__ __forceinline__ real get(const Place& at, u64 l) const {
    return gradient[place_of(c, at.group, u32(l)) + at.output * c.positions()];
  }
};

extern "C" __global__ void convolution(const real* images, const real* weight, const float* bias, real* to, u32 activation,
                                       Convolution c, Work work) {
  multiply(work, 0, 1, Patches{c, images}, Filters{c, weight}, [=](u64 group, u64 i, u32 j, float sum) {
    to[place_of(c, group, u32(i)) + u64(j) * c.positions()] =
        activated(activation, bias ? sum + bias[group * c.outputs + j] : sum);
  });
}

// The gradient of the weights.
extern "C" __global__ void convolution_weight(const real* gradient, const real* images, float* to, Convolution c, Work work) {
  multiply(work, 1, 1, Results{c, gradient}, Taps{c, images},
           [=](u64 group, u64 i, u32 j, float sum) { to[(group * c.outputs + i) * c.taps() + j] = sum; });
}

// Of the windows that saw a pixel, what came of them: sides are pixels, depths outputs and places of a window.
struct Seen {
  Convolution c;
  const real* gradient;
  struct Place {
    const real* from;
    int y, x;
  };
  __device__ __forceinline__ Place place(u64 group, u64 i) const {
    const u32 row = u32(i) / c.pixels(), pixel = u32(i) % c.pixels();
    return {gradient + (u64(row) * c.groups + group) * c.outputs * c.positions(), int(pixel / u32(c.width)) + c.padding[0],
            int(pixel % u32(c.width)) + c.padding[1]};
  }
  __device__ __forceinline__ float get(const Place& at, u64 l) const {
    const u32 output = u32(l) / c.window(), place = u32(l) % c.window();
    const int y = at.y - int(place / u32(c.kernel[1])), x = at.x - int(place % u32(c.kernel[1]));
    if (y < 0 || x < 0 || y % c.stride[0] || x % c.stride[1]) return 0.0f;
    const int v = y / c.stride[0], u = x / c.stride[1];
    if (v >= c.out_height || u >= c.out_width) return 0.0f;
    return at.from[u64(output) * c.positions() + u32(v) * u32(c.out_width) + u32(u)];
  }
};

// Sides are channels, depths outputs and places of a window.
struct Channels {
  Convolution c;
  const real* weight;
  __device__ __forceinline__ const real* place(u64 group, u64 j) const {
    return weight + (group * c.outputs * c.channels + j) * c.window();
  }
  __device__ __forceinline__ real get(const real* from, u64 l) const {
    return from[u64(u32(l) / c.window()) * c.taps() + u32(l) % c.window()];
  }
};

// The gradient of the images: every pixel gathers from the windows that saw it.
extern "C" __global__ void convolution_images(const real* gradient, const real* weight, real* to, u32 add, Convolution c,
                                              Work work) {
  multiply(work, 0, 0, Seen{c, gradient}, Channels{c, weight}, [=](u64 group, u64 i, u32 j, float sum) {
    const u32 row = u32(i) / c.pixels(), pixel = u32(i) % c.pixels();
    const u64 at = ((u64(row) * c.groups + group) * c.channels + j) * c.pixels() + pixel;
    to[at] = add ? float(to[at]) + sum : sum;
  });
}
