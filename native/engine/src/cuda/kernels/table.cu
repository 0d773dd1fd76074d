// Embeddings: rows of tables, and the sums of their gradients.

// `to` (rows, dims): row `indices[i]` of `table` (entries, dims).
extern "C" __global__ void gather(const float* table, const u32* indices, real* to, u64 rows, u32 dims) {
  each(rows * dims, [=](auto i) { to[i] = table[u64(indices[i / dims]) * dims + i % dims]; });
}

// The gradient of each row that was read, in the order in which it was: a warp a touched row, its places `order[starts[t]]` to
// `order[starts[t + 1]]`. Always the same sum, as no two warps write one row.
extern "C" __global__ void scatter(const real* gradient, const u32* touched, const u32* starts, const u32* order, float* table,
                                   const u32* count, u32 dims) {
  const u32 lane = threadIdx.x % WARP, warps = blockDim.x / WARP;
  for (u32 t = blockIdx.x * warps + threadIdx.x / WARP; t < *count; t += gridDim.x * warps) {
    for (u32 d = lane; d < dims; d += WARP) {
      float sum = 0.0f;
      for (u32 i = starts[t]; i < starts[t + 1]; ++i) sum += float(gradient[u64(order[i]) * dims + d]);
      table[u64(touched[t]) * dims + d] = sum;
    }
  }
}

// Joins along the features: part (rows, width) goes to column `first` of (rows, all), or comes from there.
extern "C" __global__ void join(const real* part, real* whole, u64 rows, u32 width, u32 all, u32 first) {
  each(rows * width, [=](auto i) { whole[u64(i / width) * all + first + i % width] = part[i]; });
}

extern "C" __global__ void part(const real* whole, real* to, u64 rows, u32 width, u32 all, u32 first, u32 add) {
  each(rows * width, [=](auto i) {
    const float g = whole[u64(i / width) * all + first + i % width];
    to[i] = add ? float(to[i]) + g : g;
  });
}
