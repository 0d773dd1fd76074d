// Embeddings: rows of tables, and the sums of their gradients.

// `to` (rows, dims): row `indices[i]` of `table` (entries, dims).
extern "C" __global__ void gather(const float* table, const u32* indices, real* to, u64 rows, u32 dims) {
  each(rows * dims, [=](auto i) { to[i] = table[u64(indices[i / dims]) * dims + i % dims]; });
}

// The gradient of each row that was read, in the order in which it was: a warp a touched row, its places `order[starts[t]]` to
// `order[starts[t + 1]]`, or a block where there are many of them. Always the same sum, as nobody else writes the row.
extern "C" __global__ void scatter(const real* gradient, const u32* touched, const u32* starts, const u32* order, float* table,
                                   const u32* count, u32 dims) {
  constexpr u32 MANY = 64, WARPS = 8;
  __shared__ float parts[WARPS][WARP];
  const u32 warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
  const auto sum_of = [=](u32 begin, u32 end, u32 d) {
    float sum = 0.0f;
    for (u32 i = begin; i < end; ++i) sum += float(gradient[u64(order[i]) * dims + d]);
    return sum;
  };
  for (u32 t = blockIdx.x * WARPS + warp; t < *count; t += gridDim.x * WARPS)
    if (starts[t + 1] - starts[t] <= MANY)
      for (u32 d = lane; d < dims; d += WARP) table[u64(touched[t]) * dims + d] = sum_of(starts[t], starts[t + 1], d);
  for (u32 t = blockIdx.x; t < *count; t += gridDim.x) {
    const u32 begin = starts[t], samples = starts[t + 1] - begin;
    if (samples <= MANY) continue;
    const u32 share = (samples + WARPS - 1) / WARPS;
    const u32 from = share * warp < samples ? share * warp : samples;
    const u32 to = from + share < samples ? from + share : samples;
    for (u32 first = 0; first < dims; first += WARP) {
      const u32 d = first + lane;
      const float part = d < dims ? sum_of(begin + from, begin + to, d) : 0.0f;
      // What came before is still read.
      __syncthreads();
      parts[warp][lane] = part;
      __syncthreads();
      if (warp == 0 && d < dims) {
        float sum = 0.0f;
        for (u32 i = 0; i < WARPS; ++i) sum += parts[i][lane];
        table[u64(touched[t]) * dims + d] = sum;
      }
    }
  }
}

// Rows of a table that a step of this worker touched, for the sum over all workers.
extern "C" __global__ void mark(const u32* touched, const u32* count, float* marks) {
  EACH(i, *count) marks[touched[i]] = 1.0f;
}

// The rows that any worker touched, in no order; `count` was 0.
extern "C" __global__ void list_marked(const float* marks, u32* touched, u32* count, u32 rows) {
  EACH(i, rows) if (marks[i] > 0.0f) touched[atomicAdd(count, 1u)] = u32(i);
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
