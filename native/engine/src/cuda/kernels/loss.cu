// Losses: a warp a row. `totals` has Σ wᵢ·lossᵢ and Σ wᵢ of each block, in f64, which `sum_totals` adds up in their order.

enum Loss : u32 { BINARY_CROSS_ENTROPY, MEAN_SQUARED_ERROR, HUBER };

__device__ __forceinline__ void note(double loss, double weight, double* totals) {
  loss = block_sum(loss);
  weight = block_sum(weight);
  if (threadIdx.x == 0) {
    totals[2 * blockIdx.x] = loss;
    totals[2 * blockIdx.x + 1] = weight;
  }
}

// −log softmax(logits)[class], shifted by the row's largest logit. Gradients are times `scale`, losses are not.
extern "C" __global__ void softmax_cross_entropy(const real* logits, const u32* classes, const float* weights,
                                                 real* gradient, double* totals, const float* scale, u64 rows, u32 outputs) {
  const u32 lane = threadIdx.x % WARP, warps = blockDim.x / WARP;
  double loss = 0.0, weight = 0.0;
  for (u64 row = u64(blockIdx.x) * warps + threadIdx.x / WARP; row < rows; row += u64(gridDim.x) * warps) {
    const real* x = logits + row * outputs;
    real* g = gradient + row * outputs;
    float top = -infinity();
    for (u32 i = lane; i < outputs; i += WARP) top = fmaxf(top, float(x[i]));
    top = warp_max(top);
    float sum = 0.0f;
    for (u32 i = lane; i < outputs; i += WARP) sum += expf(float(x[i]) - top);
    sum = warp_sum(sum);
    const float w = weights[row];
    for (u32 i = lane; i < outputs; i += WARP)
      g[i] = (expf(float(x[i]) - top) * (w / sum) - (i == classes[row] ? w : 0.0f)) * *scale;
    if (lane == 0) {
      loss += double(w) * (double(logf(sum)) + double(top) - double(float(x[classes[row]])));
      weight += double(w);
    }
  }
  note(loss, weight, totals);
}

__device__ __forceinline__ float of_value(u32 kind, float x, float y, float delta, float* by_x) {
  const float d = x - y;
  if (kind == MEAN_SQUARED_ERROR) {
    *by_x = 2.0f * d;
    return d * d;
  }
  if (kind == HUBER) {
    const bool near = fabsf(d) <= delta;
    *by_x = near ? d : copysignf(delta, d);
    return near ? 0.5f * d * d : delta * (fabsf(d) - 0.5f * delta);
  }
  // e^−|x| neither overflows nor cancels.
  const float e = expf(-fabsf(x));
  *by_x = (x >= 0.0f ? 1.0f / (1.0f + e) : e / (1.0f + e)) - y;
  return fmaxf(x, 0.0f) - x * y + log1pf(e);
}

// The mean over the outputs of a function of a logit and a target.
extern "C" __global__ void loss_by_value(const real* logits, const float* values, const float* weights,
                                         real* gradient, double* totals, const float* scale, u64 rows, u32 outputs, u32 kind, float delta) {
  const u32 lane = threadIdx.x % WARP, warps = blockDim.x / WARP;
  const float share = 1.0f / float(outputs);
  double loss = 0.0, weight = 0.0;
  for (u64 row = u64(blockIdx.x) * warps + threadIdx.x / WARP; row < rows; row += u64(gridDim.x) * warps) {
    const float w = weights[row];
    double of_row = 0.0;
    for (u32 i = lane; i < outputs; i += WARP) {
      const u64 at = row * outputs + i;
      float by_x;
      of_row += double(of_value(kind, float(logits[at]), values[at], delta, &by_x));
      gradient[at] = w * share * by_x * *scale;
    }
    of_row = warp_sum(of_row);
    if (lane == 0) {
      loss += double(w) * of_row / double(outputs);
      weight += double(w);
    }
  }
  note(loss, weight, totals);
}

// One block.
extern "C" __global__ void sum_totals(const double* totals, double* sum, u32 blocks) {
  double loss = 0.0, weight = 0.0;
  for (u32 i = threadIdx.x; i < blocks; i += blockDim.x) {
    loss += totals[2 * i];
    weight += totals[2 * i + 1];
  }
  loss = block_sum(loss);
  weight = block_sum(weight);
  if (threadIdx.x == 0) {
    sum[0] = loss;
    sum[1] = weight;
  }
}
