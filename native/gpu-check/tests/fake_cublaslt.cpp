// cuBLASLt on the driver of `fake_cuda.cpp`: products that the host computes, in the driver's order. Of the algorithms that it
// offers, the first computes something else and the second cannot: whoever takes them unseen is found out.

#include <unistd.h>

#include <atomic>

#include "fake_library.h"

namespace {

enum Status { OK = 0, INVALID_VALUE = 7, EXECUTION_FAILED = 13, NOT_SUPPORTED = 15 };
enum Algorithm : std::uint64_t { WRONG = 1, BROKEN, RIGHT };

constexpr int FAST_TF32 = 77;
constexpr unsigned RELU = 2, BIAS = 4;

struct Layout {
  Kind kind;
  std::uint64_t rows, columns;
  std::int64_t step;

  std::uint64_t bytes() const { return rows && columns ? ((columns - 1) * step + rows) * bytes_of(kind) : 0; }
  std::uint64_t place(std::uint64_t row, std::uint64_t column) const { return (column * step + row) * bytes_of(kind); }
};

struct Description {
  int compute;
  int transposed[2] = {};
  unsigned epilogue = 1;
  std::uint64_t bias = 0;
};

struct Found {
  std::uint64_t algorithm[8];
  std::size_t workspace;
  int state;
  float waves;
  int reserved[4];
};

std::atomic<unsigned> products{0};

// At the end of the process.
void end();

Library& library() {
  static Library& one = *new Library("cuBLASLt");
  static const int once = std::atexit(end);
  (void)once;
  return one;
}

void end() {
  std::fprintf(stderr, "fake cuBLASLt: %u products\n", products.load());
  if (!library().is_empty()) _exit(98);
}

template <class T>
int make(void** to, T* one) {
  *to = library().make(one);
  return OK;
}

template <class T>
T& there(void* one) {
  return library().there<T>(one);
}

template <class T>
int give_back(void* one) {
  library().give_back<T>(one);
  return OK;
}

float read(const Layout& layout, std::uint64_t at, std::uint64_t row, std::uint64_t column) {
  return load(reinterpret_cast<const void*>(at + layout.place(row, column)), layout.kind);
}

struct Product {
  Description how;
  Layout a, b, d;
  std::uint64_t at_a = 0, at_b = 0, at_d = 0;
  float alpha = 1.0f, beta = 0.0f;
  bool wrong = false;

  std::uint64_t depth() const { return how.transposed[0] ? a.rows : a.columns; }

  bool fits() const {
    const std::uint64_t rows = how.transposed[0] ? a.columns : a.rows;
    const std::uint64_t columns = how.transposed[1] ? b.rows : b.columns;
    const std::uint64_t deep = how.transposed[1] ? b.columns : b.rows;
    return rows == d.rows && columns == d.columns && deep == depth();
  }

  void run() const {
    const bool tf32 = how.compute == FAST_TF32;
    for (std::uint64_t j = 0; j < d.columns; ++j)
      for (std::uint64_t i = 0; i < d.rows; ++i) {
        float sum = 0.0f;
        for (std::uint64_t l = 0; l < depth(); ++l) {
          const float x = how.transposed[0] ? read(a, at_a, l, i) : read(a, at_a, i, l);
          const float y = how.transposed[1] ? read(b, at_b, j, l) : read(b, at_b, l, j);
          sum += factor(x, tf32) * factor(y, tf32);
        }
        sum *= wrong ? 1.5f * alpha : alpha;
        if (beta != 0.0f) sum += beta * read(d, at_d, i, j);
        // A bias is as precise as the result.
        if (how.epilogue & BIAS) sum += read({d.kind, d.rows, 1, std::int64_t(d.rows)}, how.bias, i, 0);
        if (how.epilogue & RELU && sum <= 0.0f) sum = 0.0f;
        store(reinterpret_cast<void*>(at_d + d.place(i, j)), d.kind, sum);
      }
  }
};

}  // namespace

extern "C" {

int cublasLtCreate(void** handle) { return make(handle, new int); }
int cublasLtDestroy(void* handle) { return give_back<int>(handle); }

int cublasLtMatmulDescCreate(void** to, int compute, int) {
  Description* const one = new Description;
  one->compute = compute;
  return make(to, one);
}
int cublasLtMatmulDescDestroy(void* one) { return give_back<Description>(one); }

int cublasLtMatmulDescSetAttribute(void* one, int attribute, const void* value, std::size_t bytes) {
  Description& how = there<Description>(one);
  switch (attribute) {
    case 3:
    case 4:
      if (bytes != 4) return INVALID_VALUE;
      std::memcpy(&how.transposed[attribute - 3], value, bytes);
      return OK;
    case 7:
      if (bytes != 4) return INVALID_VALUE;
      std::memcpy(&how.epilogue, value, bytes);
      return OK;
    case 8:
      if (bytes != 8) return INVALID_VALUE;
      std::memcpy(&how.bias, value, bytes);
      return OK;
    default: return NOT_SUPPORTED;
  }
}

int cublasLtMatrixLayoutCreate(void** to, int type, std::uint64_t rows, std::uint64_t columns, std::int64_t step) {
  static const std::map<int, Kind> KINDS = {{0, F32}, {2, F16}, {14, BF16}};
  const auto kind = KINDS.find(type);
  if (kind == KINDS.end() || step < std::int64_t(rows)) return INVALID_VALUE;
  return make(to, new Layout{kind->second, rows, columns, step});
}
int cublasLtMatrixLayoutDestroy(void* one) { return give_back<Layout>(one); }

int cublasLtMatmulPreferenceCreate(void** to) { return make(to, new int); }
int cublasLtMatmulPreferenceDestroy(void* one) { return give_back<int>(one); }
int cublasLtMatmulPreferenceSetAttribute(void* one, int, const void*, std::size_t) {
  there<int>(one);
  return OK;
}

int cublasLtMatmulAlgoGetHeuristic(void* handle, void* how, void* a, void* b, void* c, void* d, void* preference, int room,
                                   Found* found, int* count) {
  there<int>(handle), there<Description>(how), there<int>(preference);
  for (void* layout : {a, b, c, d}) there<Layout>(layout);
  *count = 0;
  for (const std::uint64_t algorithm : {WRONG, BROKEN, RIGHT}) {
    if (*count == room) break;
    std::memset(&found[*count], 0, sizeof(Found));
    found[(*count)++].algorithm[0] = algorithm;
  }
  return OK;
}

int cublasLtMatmul(void* handle, void* how, const void* alpha, const void* a, void* layout_a, const void* b, void* layout_b,
                   const void* beta, const void* c, void*, void* d, void* layout_d, const std::uint64_t* algorithm,
                   void* workspace, std::size_t bytes, void* stream) {
  there<int>(handle);
  Product product{there<Description>(how), there<Layout>(layout_a), there<Layout>(layout_b), there<Layout>(layout_d)};
  product.at_a = reinterpret_cast<std::uint64_t>(a), product.at_b = reinterpret_cast<std::uint64_t>(b);
  product.at_d = reinterpret_cast<std::uint64_t>(d);
  std::memcpy(&product.alpha, alpha, sizeof product.alpha);
  std::memcpy(&product.beta, beta, sizeof product.beta);
  product.wrong = *algorithm == WRONG;
  if (*algorithm == BROKEN) return NOT_SUPPORTED;
  if (*algorithm != WRONG && *algorithm != RIGHT) library().misuse("the algorithm is none that it gave");
  if (c != d) library().misuse("the fake adds to the result only");
  if (!product.fits()) return INVALID_VALUE;
  Ranges ranges = {
      {product.at_a, product.a.bytes()}, {product.at_b, product.b.bytes()}, {product.at_d, product.d.bytes()}};
  if (bytes) ranges.emplace_back(reinterpret_cast<std::uint64_t>(workspace), bytes);
  if (product.how.epilogue & BIAS) ranges.emplace_back(product.how.bias, product.d.rows * bytes_of(product.d.kind));
  library().see_aligned(ranges);
  products += product.wrong ? 0 : 1;
  const int code = fake_cuda_queue("cublasLtMatmul", stream, std::move(ranges), [product] { product.run(); });
  return code ? EXECUTION_FAILED : OK;
}

}  // extern "C"
