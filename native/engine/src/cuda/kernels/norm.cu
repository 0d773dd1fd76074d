// Layer norm: a warp a row of the last axis. Batch norm: a block a feature. `statistics` has the mean and 1/√(variance + ε)
// of each.

// Of all `len` values that `value` gives, in every thread of the block. There are fewer than 2³² of a feature.
template <class F>
__device__ __forceinline__ double block_mean(u32 len, F value) {
  double sum = 0.0;
  for (u32 i = threadIdx.x; i < len; i += blockDim.x) sum += double(value(i));
  return block_sum(sum) / double(len);
}

extern "C" __global__ void layer_norm(const real* from, const float* weight, const float* bias, real* to,
                                      float* statistics, u64 rows, u32 width, float epsilon) {
  const u32 lane = threadIdx.x % WARP, warps = blockDim.x / WARP;
  for (u64 row = u64(blockIdx.x) * warps + threadIdx.x / WARP; row < rows; row += u64(gridDim.x) * warps) {
    const real* x = from + row * width;
    float sum = 0.0f;
    for (u32 i = lane; i < width; i += WARP) sum += x[i];
    const float mean = warp_sum(sum) / float(width);
    float squares = 0.0f;
    for (u32 i = lane; i < width; i += WARP) squares += (x[i] - mean) * (x[i] - mean);
    const float scale = 1.0f / sqrtf(warp_sum(squares) / float(width) + epsilon);
    for (u32 i = lane; i < width; i += WARP) to[row * width + i] = (x[i] - mean) * scale * weight[i] + bias[i];
    if (lane == 0) {
      statistics[2 * row] = mean;
      statistics[2 * row + 1] = scale;
    }
  }
}

extern "C" __global__ void layer_norm_backward(const real* gradient, const real* from, const float* weight,
                                               const float* statistics, real* to, u64 rows, u32 width, u32 add) {
  const u32 lane = threadIdx.x % WARP, warps = blockDim.x / WARP;
  for (u64 row = u64(blockIdx.x) * warps + threadIdx.x / WARP; row < rows; row += u64(gridDim.x) * warps) {
    const float mean = statistics[2 * row], scale = statistics[2 * row + 1];
    float sum = 0.0f, along = 0.0f;
    for (u32 i = lane; i < width; i += WARP) {
      const float g = gradient[row * width + i] * weight[i];
      sum += g;
      along += g * (from[row * width + i] - mean) * scale;
    }
    sum = warp_sum(sum) / float(width);
    along = warp_sum(along) / float(width);
    for (u32 i = lane; i < width; i += WARP) {
      const u64 at = row * width + i;
      const float g = scale * (gradient[at] * weight[i] - sum - (from[at] - mean) * scale * along);
      to[at] = add ? to[at] + g : g;
    }
  }
}

// How columns are added up: `splits` blocks each 32 columns, each some of the rows. The last of them to come adds the parts up.
struct Columns {
  u64 rows;
  u32 width, splits;
  double* parts;
  u32* arrived;
};

// `write(column, sums)` of what `add(row, column, sums)` adds for every row. Lanes have columns, warps rows; always the same order.
template <u32 N, class A, class W>
__device__ __forceinline__ void sum_each_column(const Columns& work, A add, W write) {
  constexpr u32 WARPS = 8;
  __shared__ double shared[N][WARPS][WARP];
  const u32 warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
  const u64 share = (work.rows + work.splits - 1) / work.splits;
  const u32 all = (work.width + WARP - 1) / WARP * work.splits;
  for (u32 one = blockIdx.x; one < all; one += gridDim.x) {
    const u32 tile = one / work.splits, split = one % work.splits, column = tile * WARP + lane;
    const u64 begin = split * share, end = begin + share < work.rows ? begin + share : work.rows;
    double sums[N] = {};
    if (column < work.width)
      for (u64 row = begin + warp; row < end; row += WARPS) add(row, column, sums);
    // What came before is still read.
    __syncthreads();
#pragma unroll
    for (u32 n = 0; n < N; ++n) shared[n][warp][lane] = sums[n];
    __syncthreads();
    if (warp == 0)
#pragma unroll
      for (u32 n = 0; n < N; ++n) {
        double sum = 0.0;
        for (u32 i = 0; i < WARPS; ++i) sum += shared[n][i][lane];
        sums[n] = sum;
      }
    if (work.splits > 1) {
      double* const parts = work.parts + u64(tile) * work.splits * N * WARP;
      if (warp == 0)
#pragma unroll
        for (u32 n = 0; n < N; ++n) parts[(split * N + n) * WARP + lane] = sums[n];
      if (!comes_last(work.arrived, tile, work.splits)) continue;
      if (warp == 0)
#pragma unroll
        for (u32 n = 0; n < N; ++n) {
          double sum = 0.0;
          for (u32 i = 0; i < work.splits; ++i) sum += parts[(i * N + n) * WARP + lane];
          sums[n] = sum;
        }
    }
    if (warp == 0 && column < work.width) write(column, sums);
  }
}

// The gradients of weight and bias of each column of the last axis.
extern "C" __global__ void layer_norm_parameters(const real* gradient, const real* from, const float* statistics,
                                                 float* by_weight, float* by_bias, Columns work) {
  sum_each_column<2>(
      work,
      [=](u64 row, u32 column, double (&sums)[2]) {
        const u64 at = row * work.width + column;
        const float g = gradient[at];
        sums[0] += double(g * (from[at] - statistics[2 * row]) * statistics[2 * row + 1]);
        sums[1] += double(g);
      },
      [=](u32 column, const double (&sums)[2]) {
        by_weight[column] = float(sums[0]);
        by_bias[column] = float(sums[1]);
      });
}

// The sums of (rows, width) a column: the gradient of a bias.
extern "C" __global__ void sum_columns(const real* from, float* to, Columns work) {
  sum_each_column<1>(
      work, [=](u64 row, u32 column, double (&sums)[1]) { sums[0] += double(float(from[row * work.width + column])); },
      [=](u32 column, const double (&sums)[1]) { to[column] = float(sums[0]); });
}

// The same of (rows, features, inner), a block a feature.
extern "C" __global__ void sum_features(const real* from, float* sums, u64 rows, u32 features, u32 inner) {
  for (u32 feature = blockIdx.x; feature < features; feature += gridDim.x) {
    double sum = 0.0;
    for (u32 i = threadIdx.x; i < u32(rows) * inner; i += blockDim.x)
      sum += double(from[(u64(i / inner) * features + feature) * inner + i % inner]);
    sum = block_sum(sum);
    if (threadIdx.x == 0) sums[feature] = float(sum);
  }
}

// Measures the first `rows` of the batch, those that are not there to fill it up, and remembers it as PyTorch does: `running = (1 − momentum)·running + momentum·batch`, the variance
// unbiased.
extern "C" __global__ void batch_norm_measure(const real* from, float* statistics, float* running_mean,
                                              float* running_variance, const u32* rows, u32 features, u32 inner,
                                              float epsilon, float momentum) {
  for (u32 feature = blockIdx.x; feature < features; feature += gridDim.x) {
    const u32 count = *rows * inner;
    const auto value = [=](u32 i) { return from[(u64(i / inner) * features + feature) * inner + i % inner]; };
    const float mean = float(block_mean(count, value));
    const double variance = block_mean(count, [=](u32 i) { return (value(i) - mean) * (value(i) - mean); });
    if (threadIdx.x == 0) {
      statistics[2 * feature] = mean;
      statistics[2 * feature + 1] = 1.0f / sqrtf(float(variance) + epsilon);
      const float unbiased = float(count > 1 ? variance * double(count) / double(count - 1) : variance);
      running_mean[feature] = (1.0f - momentum) * running_mean[feature] + momentum * mean;
      running_variance[feature] = (1.0f - momentum) * running_variance[feature] + momentum * unbiased;
    }
  }
}

// What inference standardises by.
extern "C" __global__ void batch_norm_recall(const float* running_mean, const float* running_variance, float* statistics,
                                             u32 features, float epsilon) {
  EACH(i, features) {
    statistics[2 * i] = running_mean[i];
    statistics[2 * i + 1] = 1.0f / sqrtf(running_variance[i] + epsilon);
  }
}

extern "C" __global__ void batch_norm(const real* from, const float* statistics, const float* weight, const float* bias,
                                      real* to, u64 len, u32 features, u32 inner) {
  each(len, [=](auto i) {
    const u32 feature = u32(i / inner % features);
    to[i] = (from[i] - statistics[2 * feature]) * statistics[2 * feature + 1] * weight[feature] + bias[feature];
  });
}

// A block a feature: the gradients of weight and bias, and that of the source where `to` is not null, which has `room` rows.
extern "C" __global__ void batch_norm_backward(const real* gradient, const real* from, const float* statistics,
                                               const float* weight, float* by_weight, float* by_bias, real* to,
                                               const u32* rows, u64 room, u32 features, u32 inner, u32 add) {
  for (u32 feature = blockIdx.x; feature < features; feature += gridDim.x) {
    const u32 count = *rows * inner;
    const float mean = statistics[2 * feature], scale = statistics[2 * feature + 1];
    const auto place = [=](u32 i) { return (u64(i / inner) * features + feature) * inner + i % inner; };
    const double sum = block_mean(count, [=](u32 i) { return gradient[place(i)]; });
    const double along =
        block_mean(count, [=](u32 i) { return gradient[place(i)] * (from[place(i)] - mean) * scale; });
    if (threadIdx.x == 0) {
      by_weight[feature] = float(along * double(count));
      by_bias[feature] = float(sum * double(count));
    }
    if (!to) continue;
    for (u32 i = threadIdx.x; i < u32(room) * inner; i += blockDim.x) {
      const u64 at = place(i);
      if (i >= count) {
        if (!add) to[at] = 0.0f;
        continue;
      }
      const float g = weight[feature] * scale * (gradient[at] - float(sum) - (from[at] - mean) * scale * float(along));
      to[at] = add ? to[at] + g : g;
    }
  }
}
