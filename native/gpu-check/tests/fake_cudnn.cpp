// cuDNN on the driver of `fake_cuda.cpp`: the convolutions of its older interface, which the host computes in the driver's order.
// What the real one refuses or leaves undefined ends the process, and so does an algorithm that its search advised against.
//
// A search finds one that computes something else, one that fails when it is run, one that does not always give the same bits, one
// that needs more memory than there is, one that cannot do it, and at last the one that is right. That one is listed again with
// another way to multiply, and only one of the two may be taken: an algorithm is a number and a way to multiply.

#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <set>

#include "fake_library.h"

namespace {

enum Status { OK = 0, NOT_SUPPORTED = 3000, EXECUTION_FAILED = 5000 };
enum Format { NCHW = 0, NHWC = 1 };
enum Math { DEFAULT = 0, TENSOR_OP = 1, FMA = 3 };
enum Pass { FORWARD, FILTER, DATA };
enum Role { WRONG, BROKEN, UNSTEADY, HUNGRY, REFUSED, RIGHT };

constexpr int CONVOLUTION = 0, CROSS_CORRELATION = 1, FLOAT = 0;
constexpr const char* PASSES[] = {"forward", "backward filter", "backward data"};

// Each role's number in each pass. The numbers of filters and images that are unsteady are so in NVIDIA's documentation.
constexpr int ALGORITHMS[6][3] = {{0, 1, 1}, {1, 2, 2}, {2, 0, 0}, {4, 6, 3}, {3, 4, 4}, {7, 5, 5}};

// What the right one needs, and more than there is.
constexpr std::size_t NEEDED = 4096, TOO_MUCH = std::size_t(1) << 36;

// A tensor has fewer.
constexpr std::int64_t TOO_MANY = std::int64_t(1) << 31;

Library& library();

template <class... T>
void expect(bool is_so, const char* format, T... rest) {
  if (!is_so) library().misuse(format, rest...);
}

struct Handle {
  void* stream = nullptr;
  std::atomic<bool> used{false};
};

// Four axes, the outermost first where the format is NCHW.
struct Values {
  bool set = false;
  int format = 0;
  Kind kind = F32;
  std::array<std::int64_t, 4> axes = {};

  std::int64_t len() const { return axes[0] * axes[1] * axes[2] * axes[3]; }
  std::uint64_t bytes() const { return len() * bytes_of(kind); }

  std::int64_t place(std::int64_t n, std::int64_t c, std::int64_t y, std::int64_t x) const {
    if (format == NHWC) return ((n * axes[2] + y) * axes[3] + x) * axes[1] + c;
    return ((n * axes[1] + c) * axes[2] + y) * axes[3] + x;
  }
};
struct Tensor : Values {};
struct Filter : Values {};

// Of height and width.
using Axes = std::array<std::int64_t, 2>;

struct Convolution {
  bool set = false;
  Axes padding = {}, stride = {}, dilation = {};
  int mode = 0, groups = 1, math = DEFAULT;
};

struct Performance {
  int algorithm, status;
  float time;
  std::size_t memory;
  int determinism, math, reserved[3];
};
static_assert(sizeof(Performance) == 48, "as NVIDIA's");

// A convolution: of images x, filters w and results y, a pass computes one.
struct Shape {
  Pass pass;
  Tensor x;
  Filter w;
  Convolution how;
  Tensor y;

  // The part that a pass writes.
  const Values& of(int part) const {
    const Values* const parts[] = {&y, &w, &x};
    return *parts[part];
  }

  using Key = std::vector<std::int64_t>;

  Key key() const {
    Key all = {pass, x.format, x.kind, how.mode, how.groups};
    for (int part = 0; part < 3; ++part) all.insert(all.end(), of(part).axes.begin(), of(part).axes.end());
    for (const Axes& axes : {how.padding, how.stride, how.dilation}) all.insert(all.end(), axes.begin(), axes.end());
    return all;
  }

  // The sizes, and of the configurations that NVIDIA lists those that sum in f32.
  void see_fits() const {
    expect(x.set && w.set && y.set && how.set, "a description was made and never set");
    expect(x.kind == w.kind && x.kind == y.kind, "images, filters and results are of different types");
    expect(x.format == w.format && x.format == y.format, "images, filters and results are of different formats");
    expect(x.axes[0] == y.axes[0], "%ld images have %ld results", x.axes[0], y.axes[0]);
    expect(x.axes[1] == w.axes[1] * how.groups, "%ld channels are not those of %d groups of %ld", x.axes[1], how.groups, w.axes[1]);
    expect(w.axes[0] % how.groups == 0, "%ld filters are not in %d groups", w.axes[0], how.groups);
    expect(y.axes[1] == w.axes[0], "%ld filters have %ld results", w.axes[0], y.axes[1]);
    for (int axis = 0; axis < 2; ++axis) {
      const std::int64_t room = x.axes[2 + axis] + 2 * how.padding[axis] - (w.axes[2 + axis] - 1) * how.dilation[axis] - 1;
      expect(room >= 0, "a window is larger than the image with its padding");
      const std::int64_t most = room / how.stride[axis] + 1;
      expect(y.axes[2 + axis] == most, "axis %d of the results is %ld, not %ld", axis, y.axes[2 + axis], most);
    }
  }
};

// What is known of a shape that was searched for.
struct Known {
  // Algorithms, and ways to multiply.
  std::set<std::pair<int, int>> offered;
  // How often these two ran since the last search: whoever tries them runs both as often, and the one that is taken once more.
  unsigned wrong = 0, right = 0;
  bool taken = false;
  // Whether the right result was 0, which the wrong one's is too: nobody can tell them apart, or should take either.
  bool zeros = false;
  // Whether factors may not be rounded.
  bool exact = false;
};

std::mutex lock;
std::map<Shape::Key, Known> shapes;

// At the end of the process.
void end() {
  for (const int pass : {FORWARD, FILTER, DATA}) {
    unsigned all = 0, left = 0;
    for (const auto& [key, known] : shapes)
      if (key[0] == pass) ++all, left += !known.taken && (!known.zeros || known.wrong > known.right);
    std::fprintf(stderr, "fake cuDNN: %s: %u shapes, %u not taken\n", PASSES[pass], all, left);
  }
  if (!library().is_empty()) _exit(98);
}

Library& library() {
  static Library& one = *new Library("cuDNN");
  static const int once = std::atexit(end);
  (void)once;
  return one;
}

// A handle while a call has it.
class Use {
 public:
  explicit Use(void* one) : handle(library().there<Handle>(one)) {
    expect(!handle.used.exchange(true), "two threads use the handle at a time");
  }
  ~Use() { handle.used = false; }

  Handle& handle;
};

void set(Values& values, int type, int format, const std::array<int, 4>& axes) {
  static const std::map<int, Kind> KINDS = {{FLOAT, F32}, {2, F16}, {9, BF16}};
  const auto kind = KINDS.find(type);
  expect(kind != KINDS.end(), "type %d is none that the fake knows", type);
  expect(format == NCHW || format == NHWC, "format %d is none for values of type %d", format, type);
  for (const int axis : axes) expect(axis > 0, "an axis is %d", axis);
  values.set = true, values.format = format, values.kind = kind->second;
  std::copy(axes.begin(), axes.end(), values.axes.begin());
}

// What an algorithm is where it multiplies in this way.
Role role_of(Role algorithm, int math) { return algorithm == RIGHT && math == TENSOR_OP ? UNSTEADY : algorithm; }

// What a search lists for a way to multiply, and how each does.
std::vector<std::pair<Role, int>> listed(int math) {
  std::vector<std::pair<Role, int>> all;
  for (const Role one : {WRONG, BROKEN, UNSTEADY, HUNGRY, REFUSED, RIGHT}) all.emplace_back(one, math);
  if (math != DEFAULT) all.emplace_back(RIGHT, DEFAULT);
  return all;
}

int search(void* handle, const Shape& shape, int room, int* count, Performance* found) {
  const Use use(handle);
  shape.see_fits();
  expect(room > 0 && count && found, "there is no room for what is found");
  const int math = shape.how.math;
  const std::lock_guard<std::mutex> locked(lock);
  Known& known = shapes[shape.key()];
  known.wrong = known.right = 0, known.exact = math == FMA;
  *count = 0;
  for (const auto& [algorithm, with] : listed(math)) {
    if (*count == room) break;
    const Role role = role_of(algorithm, with);
    Performance& one = found[(*count)++];
    one = {};
    one.algorithm = ALGORITHMS[algorithm][shape.pass], one.math = with;
    one.status = role == REFUSED ? NOT_SUPPORTED : OK;
    one.time = role == REFUSED ? -1.0f : float(*count);
    one.determinism = role != UNSTEADY;
    one.memory = role == HUNGRY ? TOO_MUCH : role == RIGHT ? NEEDED : 0;
    known.offered.emplace(one.algorithm, one.math);
  }
  return OK;
}

// What an algorithm that is run does, which was found for this shape.
Role looked_up(const Shape& shape, int algorithm) {
  const std::lock_guard<std::mutex> locked(lock);
  const int math = shape.how.math;
  Known& known = shapes[shape.key()];
  expect(known.offered.count({algorithm, math}), "%s: algorithm %d with math %d was not found for this shape",
         PASSES[shape.pass], algorithm, math);
  expect(!known.exact || math == FMA, "%s: math %d may round factors, which was forbidden", PASSES[shape.pass], math);
  int number = WRONG;
  while (ALGORITHMS[number][shape.pass] != algorithm) ++number;
  const Role role = role_of(Role(number), math);
  known.wrong += role == WRONG, known.right += role == RIGHT;
  known.taken |= known.right > known.wrong;
  return role;
}

struct Run {
  Shape shape;
  // Of x, w and y.
  std::uint64_t x, w, y;
  std::uint64_t workspace;
  std::size_t bytes;
  float alpha = 0.0f, beta = 0.0f;
  bool wrong = false;

  std::uint64_t at(int part) const { return part == FORWARD ? y : part == FILTER ? w : x; }

  // One of the three, as it is multiplied.
  std::vector<float> factors(int part) const {
    const Values& values = shape.of(part);
    const bool tf32 = values.kind == F32 && shape.how.math != FMA;
    std::vector<float> all(values.len());
    for (std::size_t i = 0; i < all.size(); ++i)
      all[i] = factor(load(reinterpret_cast<const void*>(at(part) + i * bytes_of(values.kind)), values.kind), tf32);
    return all;
  }

  // Calls with the places in x, w and y of all that are multiplied with one another or summed.
  template <class F>
  void each(F with) const {
    const Convolution& how = shape.how;
    const std::int64_t images = shape.x.axes[0], height = shape.x.axes[2], width = shape.x.axes[3];
    const auto [filters, inner, tall, wide] = shape.w.axes;
    const std::int64_t outputs = filters / how.groups;
    const bool flipped = how.mode == CONVOLUTION;
    for (std::int64_t n = 0; n < images; ++n)
      for (std::int64_t k = 0; k < filters; ++k)
        for (std::int64_t i = 0; i < shape.y.axes[2]; ++i)
          for (std::int64_t j = 0; j < shape.y.axes[3]; ++j)
            for (std::int64_t c = 0; c < inner; ++c)
              for (std::int64_t r = 0; r < tall; ++r)
                for (std::int64_t s = 0; s < wide; ++s) {
                  const std::int64_t down = i * how.stride[0] - how.padding[0] + r * how.dilation[0];
                  const std::int64_t across = j * how.stride[1] - how.padding[1] + s * how.dilation[1];
                  if (down < 0 || down >= height || across < 0 || across >= width) continue;
                  with(shape.x.place(n, k / outputs * inner + c, down, across),
                       flipped ? shape.w.place(k, c, tall - 1 - r, wide - 1 - s) : shape.w.place(k, c, r, s),
                       shape.y.place(n, k, i, j));
                }
  }

  void run() const {
    const Pass pass = shape.pass;
    const Values& to = shape.of(pass);
    std::vector<float> sums(to.len());
    const std::vector<float> a = factors(pass == FORWARD ? DATA : FORWARD), b = factors(pass == FILTER ? DATA : FILTER);
    each([&](std::int64_t x, std::int64_t w, std::int64_t y) {
      if (pass == FORWARD) sums[y] += a[x] * b[w];
      if (pass == FILTER) sums[w] += a[y] * b[x];
      if (pass == DATA) sums[x] += a[y] * b[w];
    });
    if (std::all_of(sums.begin(), sums.end(), [](float sum) { return sum == 0.0f; })) {
      const std::lock_guard<std::mutex> locked(lock);
      shapes[shape.key()].zeros = true;
    }
    for (std::size_t i = 0; i < sums.size(); ++i) {
      void* const place = reinterpret_cast<void*>(at(pass) + i * bytes_of(to.kind));
      const float sum = sums[i] * (wrong ? 1.5f * alpha : alpha);
      // What is multiplied by 0 is not read.
      store(place, to.kind, beta == 0.0f ? sum : sum + beta * load(place, to.kind));
    }
    // Both ends: all of it is the library's.
    char* const beside = reinterpret_cast<char*>(workspace);
    const std::size_t each = std::min(bytes, NEEDED);
    if (each) std::memset(beside, 0xff, each), std::memset(beside + bytes - each, 0xff, each);
  }
};

// Nothing may be written where something else is.
void see_apart(const Ranges& ranges, std::size_t written) {
  for (std::size_t i = 0; i < ranges.size(); ++i) {
    const auto& [a, a_bytes] = ranges[i];
    const auto& [b, b_bytes] = ranges[written];
    expect(i == written || a + a_bytes <= b || b + b_bytes <= a, "what is written overlaps another part");
  }
}

int convolve(const char* name, void* handle, Run run, int algorithm, const void* alpha, const void* beta) {
  const Use use(handle);
  run.shape.see_fits();
  expect(alpha && beta && run.x && run.w && run.y, "%s: a part is null", name);
  std::memcpy(&run.alpha, alpha, sizeof run.alpha), std::memcpy(&run.beta, beta, sizeof run.beta);
  const Role role = looked_up(run.shape, algorithm);
  if (role == BROKEN) return NOT_SUPPORTED;
  expect(role != UNSTEADY, "%s: the algorithm does not always give the same bits", name);
  expect(role != REFUSED, "%s: the algorithm is one that cannot do it", name);
  expect(role != HUNGRY, "%s: there cannot be as much memory as the algorithm needs", name);
  expect(role != RIGHT || run.bytes >= NEEDED, "%s: %zu bytes beside are too few", name, run.bytes);
  expect(!run.bytes || run.workspace, "%s: the memory beside is null", name);
  run.wrong = role == WRONG;
  Ranges ranges;
  for (const int part : {FORWARD, FILTER, DATA}) ranges.emplace_back(run.at(part), run.shape.of(part).bytes());
  see_apart(ranges, run.shape.pass);
  if (run.bytes) {
    ranges.emplace_back(run.workspace, run.bytes);
    see_apart(ranges, 3);
  }
  library().see_aligned(ranges);
  const int code = fake_cuda_queue(name, use.handle.stream, std::move(ranges), [run] { run.run(); });
  return code ? EXECUTION_FAILED : OK;
}

Shape shape_of(Pass pass, void* x, void* w, void* how, void* y) {
  Library& all = library();
  return {pass, all.there<Tensor>(x), all.there<Filter>(w), all.there<Convolution>(how), all.there<Tensor>(y)};
}

Run run_of(Shape shape, const void* x, const void* w, const void* y, void* workspace, std::size_t bytes) {
  const auto at = [](const void* place) { return reinterpret_cast<std::uint64_t>(place); };
  return {std::move(shape), at(x), at(w), at(y), at(workspace), bytes};
}

template <class T>
int make(void** to) {
  *to = library().make(new T);
  return OK;
}

template <class T>
int give_back(void* one) {
  library().give_back<T>(one);
  return OK;
}

}  // namespace

extern "C" {

int cudnnCreate(void** handle) {
  fake_cuda_outside("cudnnCreate", nullptr);
  return make<Handle>(handle);
}

int cudnnDestroy(void* handle) {
  // The card, and with it the stream, is waited for.
  fake_cuda_outside("cudnnDestroy", Use(handle).handle.stream);
  return give_back<Handle>(handle);
}

int cudnnSetStream(void* handle, void* stream) {
  fake_cuda_outside("cudnnSetStream", stream);
  Use(handle).handle.stream = stream;
  return OK;
}

int cudnnCreateTensorDescriptor(void** to) { return make<Tensor>(to); }
int cudnnDestroyTensorDescriptor(void* one) { return give_back<Tensor>(one); }

int cudnnSetTensor4dDescriptor(void* one, int format, int type, int n, int c, int h, int w) {
  Tensor& tensor = library().there<Tensor>(one);
  set(tensor, type, format, {n, c, h, w});
  return tensor.len() < TOO_MANY ? OK : NOT_SUPPORTED;
}

int cudnnCreateFilterDescriptor(void** to) { return make<Filter>(to); }
int cudnnDestroyFilterDescriptor(void* one) { return give_back<Filter>(one); }

int cudnnSetFilter4dDescriptor(void* one, int type, int format, int k, int c, int h, int w) {
  set(library().there<Filter>(one), type, format, {k, c, h, w});
  return OK;
}

int cudnnCreateConvolutionDescriptor(void** to) { return make<Convolution>(to); }
int cudnnDestroyConvolutionDescriptor(void* one) { return give_back<Convolution>(one); }

int cudnnSetConvolution2dDescriptor(void* one, int pad_h, int pad_w, int u, int v, int dilation_h, int dilation_w, int mode,
                                    int compute) {
  Convolution& how = library().there<Convolution>(one);
  expect(pad_h >= 0 && pad_w >= 0, "the padding is (%d, %d)", pad_h, pad_w);
  expect(u > 0 && v > 0, "the stride is (%d, %d)", u, v);
  expect(dilation_h > 0 && dilation_w > 0, "the dilation is (%d, %d)", dilation_h, dilation_w);
  expect(mode == CONVOLUTION || mode == CROSS_CORRELATION, "mode %d is none", mode);
  expect(compute == FLOAT, "sums of type %d are none that the fake knows", compute);
  how.set = true, how.mode = mode;
  how.padding = {pad_h, pad_w}, how.stride = {u, v}, how.dilation = {dilation_h, dilation_w};
  return OK;
}

int cudnnSetConvolutionGroupCount(void* one, int groups) {
  expect(groups > 0, "there are %d groups", groups);
  library().there<Convolution>(one).groups = groups;
  return OK;
}

int cudnnSetConvolutionMathType(void* one, int math) {
  // 2 may round values to f16.
  expect(math == DEFAULT || math == TENSOR_OP || math == FMA, "math %d is none that the fake knows", math);
  library().there<Convolution>(one).math = math;
  return OK;
}

int cudnnGetConvolutionForwardAlgorithm_v7(void* handle, void* x, void* w, void* how, void* y, int room, int* count,
                                           Performance* found) {
  return search(handle, shape_of(FORWARD, x, w, how, y), room, count, found);
}

int cudnnGetConvolutionBackwardFilterAlgorithm_v7(void* handle, void* x, void* dy, void* how, void* dw, int room, int* count,
                                                  Performance* found) {
  return search(handle, shape_of(FILTER, x, dw, how, dy), room, count, found);
}

int cudnnGetConvolutionBackwardDataAlgorithm_v7(void* handle, void* w, void* dy, void* how, void* dx, int room, int* count,
                                                Performance* found) {
  return search(handle, shape_of(DATA, dx, w, how, dy), room, count, found);
}

int cudnnConvolutionForward(void* handle, const void* alpha, void* of_x, const void* x, void* of_w, const void* w, void* how,
                            int algorithm, void* workspace, std::size_t bytes, const void* beta, void* of_y, void* y) {
  const Run run = run_of(shape_of(FORWARD, of_x, of_w, how, of_y), x, w, y, workspace, bytes);
  return convolve("cudnnConvolutionForward", handle, run, algorithm, alpha, beta);
}

int cudnnConvolutionBackwardFilter(void* handle, const void* alpha, void* of_x, const void* x, void* of_dy, const void* dy,
                                   void* how, int algorithm, void* workspace, std::size_t bytes, const void* beta, void* of_dw,
                                   void* dw) {
  const Run run = run_of(shape_of(FILTER, of_x, of_dw, how, of_dy), x, dw, dy, workspace, bytes);
  return convolve("cudnnConvolutionBackwardFilter", handle, run, algorithm, alpha, beta);
}

int cudnnConvolutionBackwardData(void* handle, const void* alpha, void* of_w, const void* w, void* of_dy, const void* dy, void* how,
                                 int algorithm, void* workspace, std::size_t bytes, const void* beta, void* of_dx, void* dx) {
  const Run run = run_of(shape_of(DATA, of_dx, of_w, how, of_dy), dx, w, dy, workspace, bytes);
  return convolve("cudnnConvolutionBackwardData", handle, run, algorithm, alpha, beta);
}

}  // extern "C"
