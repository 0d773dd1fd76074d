// Pools over (planes, height, width). A window's places outside are not there.

struct Window {
  int kernel[2], stride[2], padding[2];
};

// The first and last place of a window along an axis, cut to what is there.
__device__ __forceinline__ void bounds(const Window& w, int axis, int out, int len, int* first, int* end) {
  const int start = out * w.stride[axis] - w.padding[axis];
  *first = start < 0 ? 0 : start;
  *end = start + w.kernel[axis] < len ? start + w.kernel[axis] : len;
}

// The activation, which never falls, comes after. `chosen` has the place of each result in its plane. NaN is the largest, and of equals the first counts.
extern "C" __global__ void max_pool(const real* from, real* to, u32* chosen, u64 planes, int height, int width, int out_height,
                                    int out_width, Window w, u32 activation) {
  const u32 across = u32(out_width), down = u32(out_height);
  each(planes * down * across, [=](auto i) {
    const real* const x = from + u64(i / (down * across)) * height * width;
    int top, bottom, left, right;
    bounds(w, 0, int(i / across % down), height, &top, &bottom);
    bounds(w, 1, int(i % across), width, &left, &right);
    int best = top * width + left;
    for (int y = top; y < bottom; ++y)
      for (int z = left; z < right; ++z) {
        const int at = y * width + z;
        const float one = x[at], most = x[best];
        if (one > most || (one != one && most == most)) best = at;
      }
    to[i] = activated(activation, x[best]);
    chosen[i] = u32(best);
  });
}

// The first and last window that has a place of the source along an axis, of `out`.
__device__ __forceinline__ void windows(const Window& w, int axis, int place, int out, int* first, int* end) {
  const int from = place + w.padding[axis];
  const int least = from - w.kernel[axis] + 1;
  *first = least <= 0 ? 0 : (least + w.stride[axis] - 1) / w.stride[axis];
  *end = from / w.stride[axis] + 1 < out ? from / w.stride[axis] + 1 : out;
}

// `to` becomes, or has added, what `value(result, place)` gives of each window that has a place of a plane. A thread a place: windows
// overlap, and each place adds up its own in one order.
template <class V>
__device__ __forceinline__ void from_windows(real* to, u64 planes, int height, int width, int out_height, int out_width,
                                             const Window& w, u32 add, V value) {
  const u32 across = u32(width), down = u32(height);
  each(planes * down * across, [=](auto i) {
    const u64 plane = i / (down * across);
    const int y = int(i / across % down), z = int(i % across);
    int top, bottom, left, right;
    windows(w, 0, y, out_height, &top, &bottom);
    windows(w, 1, z, out_width, &left, &right);
    float sum = 0.0f;
    for (int a = top; a < bottom; ++a)
      for (int b = left; b < right; ++b) sum += value((plane * out_height + a) * out_width + b, u32(y * width + z));
    to[i] = add ? float(to[i]) + sum : sum;
  });
}

extern "C" __global__ void max_pool_backward(const real* gradient, const u32* chosen, real* to, u64 planes, int height,
                                             int width, int out_height, int out_width, Window w, u32 add) {
  from_windows(to, planes, height, width, out_height, out_width, w, add,
               [=](u64 result, u32 place) { return chosen[result] == place ? float(gradient[result]) : 0.0f; });
}

// The mean over a window, what is outside counted as 0.
extern "C" __global__ void avg_pool(const real* from, real* to, u64 planes, int height, int width, int out_height, int out_width,
                                    Window w) {
  const float scale = 1.0f / float(w.kernel[0] * w.kernel[1]);
  const u32 across = u32(out_width), down = u32(out_height);
  each(planes * down * across, [=](auto i) {
    const real* const x = from + u64(i / (down * across)) * height * width;
    int top, bottom, left, right;
    bounds(w, 0, int(i / across % down), height, &top, &bottom);
    bounds(w, 1, int(i % across), width, &left, &right);
    float sum = 0.0f;
    for (int y = top; y < bottom; ++y)
      for (int z = left; z < right; ++z) sum += float(x[y * width + z]);
    to[i] = sum * scale;
  });
}

extern "C" __global__ void avg_pool_backward(const real* gradient, real* to, u64 planes, int height, int width, int out_height,
                                             int out_width, Window w, u32 add) {
  const float scale = 1.0f / float(w.kernel[0] * w.kernel[1]);
  from_windows(to, planes, height, width, out_height, out_width, w, add,
               [=](u64 result, u32) { return float(gradient[result]) * scale; });
}
