// Layer norm: a warp a row of the last axis. Batch norm: some blocks a feature. `statistics` has the mean and 1/√(variance + ε)
// of each.

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
// The same of features, a feature for 32 columns.
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

// `write(feature, sums)` of what `add(feature, at, sums)` adds for each of a feature's values, at its place in (rows, features,
// inner).
// There are fewer than 2³² of a feature. Always the same order.
template <u32 N, class A, class W>
__device__ __forceinline__ void sum_each_feature(const Columns& work, u32 values, u32 inner, A add, W write) {
  const u32 share = values / work.splits + (values % work.splits ? 1 : 0);
  for (u32 one = blockIdx.x; one < work.width * work.splits; one += gridDim.x) {
    const u32 feature = one / work.splits, split = one % work.splits;
    const u32 begin = share * split < values ? share * split : values;
    const u32 end = values - begin < share ? values : begin + share;
    double sums[N] = {};
    for (u32 i = begin + threadIdx.x; i < end; i += blockDim.x)
      add(feature, (u64(i / inner) * work.width + feature) * inner + i % inner, sums);
#pragma unroll
    for (u32 n = 0; n < N; ++n) sums[n] = block_sum(sums[n]);
    if (work.splits > 1) {
      double* const parts = work.parts + u64(feature) * work.splits * N;
      if (threadIdx.x == 0)
#pragma unroll
        for (u32 n = 0; n < N; ++n) parts[split * N + n] = sums[n];
      if (!comes_last(work.arrived, feature, work.splits)) continue;
#pragma unroll
      for (u32 n = 0; n < N; ++n) {
        sums[n] = 0.0;
        for (u32 i = 0; i < work.splits; ++i) sums[n] += parts[i * N + n];
      }
    }
    if (threadIdx.x == 0) write(feature, sums);
  }
}

// The sums of (rows, features, inner) a feature: the gradient of a bias.
extern "C" __global__ void sum_features(const real* from, float* to, u32 inner, Columns work) {
  sum_each_feature<1>(
      work, u32(work.rows) * inner, inner,
      [=](u32, u64 at, double (&sums)[1]) { sums[0] += double(float(from[at])); },
      [=](u32 feature, const double (&sums)[1]) { to[feature] = float(sums[0]); });
}

// Measures the first `rows` of the batch, those that are not there to fill it up, and remembers it as PyTorch does:
// `running = (1 − momentum)·running + momentum·batch`, the variance unbiased. Values are taken from the feature's first, so that
// no digits are lost where they are far from 0.
extern "C" __global__ void batch_norm_measure(const real* from, float* statistics, float* running_mean,
                                              float* running_variance, const u32* rows, u32 inner, float epsilon,
                                              float momentum, Columns work) {
  const u32 count = *rows * inner;
  sum_each_feature<2>(
      work, count, inner,
      [=](u32 feature, u64 at, double (&sums)[2]) {
        const double apart = double(float(from[at])) - double(float(from[u64(feature) * inner]));
        sums[0] += apart;
        sums[1] += apart * apart;
      },
      [=](u32 feature, const double (&sums)[2]) {
        const double n = double(count), apart = sums[0] / n;
        const float mean = float(double(float(from[u64(feature) * inner])) + apart);
        const double squares = sums[1] - sums[0] * apart;
        // Not of NaN.
        const double variance = squares < 0.0 ? 0.0 : squares / n;
        statistics[2 * feature] = mean;
        statistics[2 * feature + 1] = 1.0f / sqrtf(float(variance) + epsilon);
        const float unbiased = float(count > 1 ? variance * n / (n - 1.0) : variance);
        running_mean[feature] = (1.0f - momentum) * running_mean[feature] + momentum * mean;
        running_variance[feature] = (1.0f - momentum) * running_variance[feature] + momentum * unbiased;
      });
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

// The gradients of weight and bias.
extern "C" __global__ void batch_norm_parameters(const real* gradient, const real* from, const float* statistics,
                                                 float* by_weight, float* by_bias, const u32* rows, u32 inner,
                                                 Columns work) {
  sum_each_feature<2>(
      work, *rows * inner, inner,
      [=](u32 feature, u64 at, double (&sums)[2]) {
        const float g = gradient[at];
        sums[0] += double(g);
        sums[1] += double(g * (from[at] - statistics[2 * feature]) * statistics[2 * feature + 1]);
      },
      [=](u32 feature, const double (&sums)[2]) {
        by_bias[feature] = float(sums[0]);
        by_weight[feature] = float(sums[1]);
      });
}

// The gradient of the source, which has `len` values, from those of weight and bias; none for rows that fill the batch up.
extern "C" __global__ void batch_norm_backward(const real* gradient, const real* from, const float* statistics,
                                               const float* weight, const float* by_weight, const float* by_bias, real* to,
                                               const u32* rows, u64 len, u32 features, u32 inner, u32 add) {
  const u64 measured = u64(*rows) * features * inner;
  const float count = float(*rows * inner);
  each(len, [=](auto i) {
    if (i >= measured) {
      if (!add) to[i] = 0.0f;
      return;
    }
    const u32 feature = u32(i / inner % features);
    const float scale = statistics[2 * feature + 1], x = (from[i] - statistics[2 * feature]) * scale;
    const float sum = by_bias[feature] / count, along = by_weight[feature] / count;
    const float g = weight[feature] * scale * (gradient[i] - sum - x * along);
    to[i] = add ? to[i] + g : g;
  });
}
