// NVIDIA's driver without a card, for tests of whoever calls it. It is strict: what the real one leaves undefined, or answers
// with an error that nobody may cause, ends the process with a message that names the call.
//
// Work is queued. It is done when somebody waits, and a little of it in any call, the streams in a drawn order that keeps to the
// events and to nothing else. Memory of the device is out of the host's reach except while work is done; behind it lies a page
// that nobody may touch, and its addresses are never given out again. Fresh memory holds ones, which is NaN in every precision.
//
// A module is PTX; its kernels run from the library FAKE_CUDA_KERNELS/<FNV-1a of the PTX>.so.
//
//     FAKE_CUDA_DEVICES     how many cards, 1
//     FAKE_CUDA_MEMORY      bytes of each, 8 GiB
//     FAKE_CUDA_CAPABILITY  compute capability, 9.1: of no card, so that NVRTC gives PTX, which can be read
//     FAKE_CUDA_SEED        of the order, 1
//     FAKE_CUDA_FAIL        name:nth:code, of one call or more, with commas; `kernel` is a kernel that fails while it runs
//     FAKE_CUDA_SLOW        name:microseconds: kernels whose names begin so take so much longer

#include <dlfcn.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <set>
#include <sstream>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "fake_library.h"

namespace {

enum Code {
  OK = 0,
  INVALID_VALUE = 1,
  OUT_OF_MEMORY = 2,
  NO_DEVICE = 100,
  INVALID_DEVICE = 101,
  NO_BINARY = 209,
  NOT_FOUND = 500,
  NOT_READY = 600,
};

const std::map<int, std::pair<const char*, const char*>> CODES = {
    {1, {"CUDA_ERROR_INVALID_VALUE", "invalid argument"}},
    {2, {"CUDA_ERROR_OUT_OF_MEMORY", "out of memory"}},
    {100, {"CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"}},
    {101, {"CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"}},
    {209, {"CUDA_ERROR_NO_BINARY_FOR_GPU", "no kernel image is available for execution on the device"}},
    {222, {"CUDA_ERROR_UNSUPPORTED_PTX_VERSION", "the provided PTX was compiled with an unsupported toolchain."}},
    {500, {"CUDA_ERROR_NOT_FOUND", "named symbol not found"}},
    {600, {"CUDA_ERROR_NOT_READY", "device not ready"}},
    {700, {"CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access was encountered"}},
    {719, {"CUDA_ERROR_LAUNCH_FAILED", "unspecified launch failure"}},
    {999, {"CUDA_ERROR_UNKNOWN", "unknown error"}},
};

constexpr std::uint64_t PAGE = 4096, ALIGNED = 256, ROOM = std::uint64_t(1) << 40;

// Nothing that is no address is as large.
constexpr std::uint64_t LARGE = std::uint64_t(1) << 40;

struct Context {
  int device;
  unsigned retained = 0;
  // A kernel failed: everything fails with its code from then on.
  int dead = OK;
};

// Memory of the device or of the host.
struct Memory {
  std::uint64_t at;
  std::size_t bytes, span;
  Context* context;
  unsigned queued = 0;
};

struct Module {
  Context* context;
  void* library;
};

struct Function {
  Module* module;
  std::string name;
  std::vector<std::size_t> sizes;
  unsigned most_threads = 1024;
};

struct Event {
  Context* context = nullptr;
  std::uint64_t recorded = 0, done = 0;
  unsigned queued = 0;
};

struct Exec;

struct Op {
  enum Kind { LAUNCH, COPY, FILL, RECORD, HOLD, LIBRARY } kind = LAUNCH;
  Function* function = nullptr;
  unsigned blocks = 0, threads = 0;
  std::vector<std::uint64_t> arguments;
  std::vector<std::size_t> offsets;
  std::uint64_t to = 0, from = 0, bytes = 0, hash = 0, time = 0;
  int value = 0;
  Event* event = nullptr;
  // Of a library: what it does, when it may begin, and with which bytes of the device.
  std::function<void()> run;
  std::function<bool()> ready;
  Ranges ranges;
  // The graph that it is of, if any.
  Exec* exec = nullptr;
  std::vector<Memory*> uses;
};

struct Graph {
  Context* context = nullptr;
  std::vector<Op> ops;
};

struct Exec {
  Context* context = nullptr;
  unsigned queued = 0;
  std::vector<Op> ops;
};

struct Stream {
  Context* context = nullptr;
  unsigned number = 0;
  std::deque<Op> queue;
  Graph* capture = nullptr;
  std::thread::id capturing;
};

std::mutex lock;
thread_local Context* current = nullptr;
thread_local const char* calling = "";
// The kernel that runs.
const char* running = nullptr;

bool started = false;
std::vector<Context> contexts;
std::vector<std::uint64_t> allocated;
std::map<std::uint64_t, Memory> device_memory, host_memory;
std::set<Stream*> streams;
std::set<Event*> events;
std::set<Module*> modules;
std::map<Function*, std::unique_ptr<Function>> functions;
std::set<Graph*> graphs;
std::set<Exec*> execs;
std::uint64_t arena = 0, top = 0;
std::mt19937_64 random_bits;
std::map<std::string, unsigned> counts;
std::map<std::pair<std::string, unsigned>, int> failures;
unsigned launched = 0, replayed = 0;
std::string slow;
unsigned slower = 0;

[[noreturn]] __attribute__((format(printf, 1, 2))) void misuse(const char* format, ...) {
  std::fprintf(stderr, "fake driver: %s: ", calling);
  va_list rest;
  va_start(rest, format);
  std::vfprintf(stderr, format, rest);
  va_end(rest);
  std::fputc('\n', stderr);
  std::abort();
}

std::uint64_t number(const char* name, std::uint64_t otherwise) {
  const char* text = std::getenv(name);
  return text ? std::strtoull(text, nullptr, 10) : otherwise;
}

void capability(int& major, int& minor) {
  major = 9, minor = 1;
  if (const char* text = std::getenv("FAKE_CUDA_CAPABILITY")) std::sscanf(text, "%d.%d", &major, &minor);
}

// Whether the call of this name that is made now is one that fails.
int failure(const char* name) {
  const auto found = failures.find({name, ++counts[name]});
  return found == failures.end() ? OK : found->second;
}

bool in_arena(std::uint64_t at) { return at - arena < ROOM; }

// Whoever touches what it may not: a kernel outside its memory, or the host the device's.
void on_fault(int, siginfo_t* info, void*) {
  char text[256];
  const std::uint64_t at = reinterpret_cast<std::uint64_t>(info->si_addr);
  const char* who = running ? running : "the host";
  const int length = std::snprintf(text, sizeof text, "fake driver: %s touches %s at %#lx\n", who,
                                   in_arena(at) ? "memory of the device that is not its own" : "memory", at);
  if (write(2, text, length) < 0) _exit(97);
  signal(SIGSEGV, SIG_DFL);
  raise(SIGSEGV);
}

bool idle() {
  for (const Stream* stream : streams)
    if (!stream->queue.empty()) return false;
  return true;
}

template <class T>
void count_left(std::string& left, const T& all, const char* what) {
  if (!all.empty()) left += ", " + std::to_string(all.size()) + " " + what;
}

// What was not given back.
std::string left(const Context* context) {
  std::string left;
  const auto of = [=](const auto& all) {
    std::vector<int> found;
    for (const auto* one : all)
      if (!context || one->context == context) found.push_back(0);
    return found;
  };
  const auto memory_of = [=](const auto& all) {
    std::vector<int> found;
    for (const auto& [at, one] : all)
      if (!context || one.context == context) found.push_back(0);
    return found;
  };
  count_left(left, memory_of(device_memory), "allocations");
  count_left(left, memory_of(host_memory), "page-locked allocations");
  count_left(left, of(streams), "streams");
  count_left(left, of(events), "events");
  count_left(left, of(modules), "modules");
  count_left(left, of(graphs), "graphs");
  count_left(left, of(execs), "instantiated graphs");
  return left.empty() ? left : left.substr(2);
}

// At the end of the process.
void end() {
  calling = "at the end";
  std::string all = left(nullptr);
  for (const Context& context : contexts)
    if (context.retained) all += (all.empty() ? "" : ", ") + std::string("a context");
  if (!idle()) all += (all.empty() ? "" : ", ") + std::string("queued work");
  std::fprintf(stderr, "fake driver: %u kernels ran, %u graphs were launched\n", launched, replayed);
  if (!all.empty()) {
    std::fprintf(stderr, "fake driver: not given back: %s\n", all.c_str());
    _exit(98);
  }
}

void start() {
  started = true;
  contexts.resize(number("FAKE_CUDA_DEVICES", 1));
  allocated.resize(contexts.size());
  for (std::size_t i = 0; i < contexts.size(); ++i) contexts[i].device = int(i);
  void* const room = mmap(nullptr, ROOM, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (room == MAP_FAILED) misuse("no addresses for the device");
  arena = top = reinterpret_cast<std::uint64_t>(room);
  random_bits.seed(number("FAKE_CUDA_SEED", 1));
  if (const char* text = std::getenv("FAKE_CUDA_FAIL")) {
    std::istringstream all(text);
    for (std::string one; std::getline(all, one, ',');) {
      const std::size_t second = one.rfind(':'), first = one.rfind(':', second - 1);
      const unsigned nth = unsigned(std::stoul(one.substr(first + 1, second - first - 1)));
      failures[{one.substr(0, first), nth}] = std::stoi(one.substr(second + 1));
    }
  }
  if (const char* text = std::getenv("FAKE_CUDA_SLOW")) {
    slow = text;
    slower = unsigned(std::stoul(slow.substr(slow.rfind(':') + 1)));
    slow.resize(slow.rfind(':'));
  }
  // Before what it looks at is gone, as it was made before.
  std::atexit(end);
  struct sigaction action = {};
  action.sa_sigaction = on_fault;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK;
  sigaction(SIGSEGV, &action, nullptr);
}

template <class T>
T& alive(const std::set<T*>& all, void* handle, const char* what) {
  T* const one = static_cast<T*>(handle);
  if (!one) misuse("%s is null", what);
  if (!all.count(one)) misuse("%s was given back, or never made", what);
  if (one->context != current) misuse("%s is of another context", what);
  return *one;
}

Stream& stream_of(void* handle) { return alive(streams, handle, "the stream"); }
Event& event_of(void* handle) { return alive(events, handle, "the event"); }

// The memory that has all of a range.
Memory* holder(std::map<std::uint64_t, Memory>& all, std::uint64_t at, std::uint64_t bytes) {
  auto next = all.upper_bound(at);
  if (next == all.begin()) return nullptr;
  Memory& memory = (--next)->second;
  return at + bytes <= memory.at + memory.bytes ? &memory : nullptr;
}

Memory* device_range(std::uint64_t at, std::uint64_t bytes) {
  Memory* const memory = holder(device_memory, at, bytes);
  if (!memory) misuse("%lu bytes at %#lx are not in one live allocation", bytes, at);
  if (memory->context != current) misuse("the memory is another device's");
  return memory;
}

Memory* host_range(std::uint64_t at, std::uint64_t bytes) {
  Memory* const memory = holder(host_memory, at, bytes);
  if (!memory) misuse("%lu bytes of the host are not page-locked", bytes);
  return memory;
}

std::uint64_t hash(const void* from, std::size_t bytes) {
  const unsigned char* const all = static_cast<const unsigned char*>(from);
  std::uint64_t hash = 0xcbf29ce484222325u;
  for (std::size_t i = 0; i < bytes; ++i) hash = (hash ^ all[i]) * 0x100000001b3u;
  return hash;
}

std::set<Memory*> reached;

void protect(const Memory& memory, int protection) {
  if (in_arena(memory.at)) mprotect(reinterpret_cast<void*>(memory.at / PAGE * PAGE), memory.span, protection);
}

// Memory of the device that is used stays within reach until it ends.
struct Reach {
  ~Reach() {
    for (const Memory* memory : reached) protect(*memory, PROT_NONE);
    reached.clear();
  }

  static void of(const std::vector<Memory*>& used) {
    for (Memory* memory : used)
      if (reached.insert(memory).second) protect(*memory, PROT_READ | PROT_WRITE);
  }
};

// Lets go of what an operation uses.
void let_go(Op& op) {
  for (Memory* memory : op.uses) --memory->queued;
  if (op.exec) --op.exec->queued;
  if (!op.event) return;
  --op.event->queued;
  // What fails is not done, but nobody waits for it for ever.
  if (op.kind == Op::RECORD) op.event->done = op.time;
}

// Ends a context, and all that is queued in it.
void die(Context& context, int code) {
  context.dead = code;
  for (Stream* stream : streams)
    if (stream->context == &context) {
      for (Op& op : stream->queue) let_go(op);
      stream->queue.clear();
    }
}

void run_kernel(Op& op, Context& context) {
  ++launched;
  if (const int code = failure("kernel")) return die(context, code);
  typedef int Launch(const char*, unsigned, unsigned, void**);
  Launch* const launch = reinterpret_cast<Launch*>(dlsym(op.function->module->library, "emulate_launch"));
  std::vector<void*> places;
  for (const std::size_t offset : op.offsets) places.push_back(reinterpret_cast<char*>(op.arguments.data()) + offset);
  if (slower && !op.function->name.compare(0, slow.size(), slow)) usleep(slower);
  running = op.function->name.c_str();
  const int ended = launch ? launch(running, op.blocks, op.threads, places.data()) : 2;
  running = nullptr;
  if (ended == 1) misuse("the threads of %s wait for each other", op.function->name.c_str());
  if (ended != 0) misuse("the library has no kernel %s", op.function->name.c_str());
}

void execute(Op& op, Context& context) {
  let_go(op);
  Reach::of(op.uses);
  void* const to = reinterpret_cast<void*>(op.to);
  const void* const from = reinterpret_cast<const void*>(op.from);
  switch (op.kind) {
    case Op::LAUNCH: return run_kernel(op, context);
    case Op::COPY:
      if (op.hash && hash(from, op.bytes) != op.hash) misuse("the host wrote what a queued copy was to read");
      std::memcpy(to, from, op.bytes);
      return;
    case Op::FILL: std::memset(to, op.value, op.bytes); return;
    case Op::LIBRARY: return op.run();
    default: return;
  }
}

// Does what one stream has next, if any may.
bool work() {
  std::vector<Stream*> ready;
  for (Stream* stream : streams) {
    if (stream->queue.empty()) continue;
    const Op& op = stream->queue.front();
    if (op.kind == Op::HOLD && op.event->done < op.time) continue;
    if (op.ready && !op.ready()) continue;
    ready.push_back(stream);
  }
  if (ready.empty()) return false;
  const auto earlier = [](const Stream* a, const Stream* b) { return a->number < b->number; };
  std::sort(ready.begin(), ready.end(), earlier);
  Stream& stream = *ready[random_bits() % ready.size()];
  Op op = std::move(stream.queue.front());
  stream.queue.pop_front();
  execute(op, *stream.context);
  return true;
}

template <class F>
int wait(F done) {
  if (!done()) {
    const Reach reach;
    while (!done())
      if (!work()) misuse("the streams wait for each other");
  }
  return current->dead;
}

// The same without waiting; a little is done meanwhile.
template <class F>
int look(F done) {
  if (!done()) {
    const Reach reach;
    work();
  }
  if (current->dead) return current->dead;
  return done() ? OK : NOT_READY;
}

enum Need { NOTHING, STARTED, CONTEXT };

// A call: counted, failed when that was asked for, and seen to be made in a context.
struct Call {
  std::unique_lock<std::mutex> locked{lock};
  int code;

  Call(const char* name, Need need) {
    calling = name;
    if (!started && need != NOTHING) misuse("cuInit comes first");
    if (!started) start();
    if (need == CONTEXT) {
      if (!current) misuse("no context is this thread's");
      if (!current->retained) misuse("this thread's context was released");
      if (!idle() && random_bits() % 4 == 0) {
        const Reach reach;
        for (std::uint64_t left = random_bits() % 4; left > 0 && work(); --left) {
        }
      }
    }
    code = failure(name);
    if (!code && need == CONTEXT) code = current->dead;
  }
};

#define CALL(need)                 \
  const Call call(__func__, need); \
  if (call.code) return call.code

// One that gives something back, which a context takes even when it is dead.
#define GIVE_BACK                   \
  const Call call(__func__, CONTEXT); \
  if (call.code != current->dead) return call.code

// What a thread may not do while it captures.
void outside_capture() {
  for (const Stream* stream : streams)
    if (stream->capture && stream->capturing == std::this_thread::get_id()) misuse("this thread captures a stream");
}

void keep_argument(Op& op, std::size_t word) {
  const std::uint64_t at = op.arguments[word];
  const char* const name = op.function->name.c_str();
  if (in_arena(at)) {
    Memory* const memory = holder(device_memory, at, 1);
    if (!memory) misuse("%s is given %#lx, which is in no live allocation", name, at);
    if (memory->context != current) misuse("%s is given memory of another device", name);
    op.uses.push_back(memory);
    return;
  }
  // A parameter by itself; those of a struct may be two numbers in one word.
  const auto parameter = std::find(op.offsets.begin(), op.offsets.end(), 8 * word);
  if (at >= LARGE && parameter != op.offsets.end() && op.function->sizes[parameter - op.offsets.begin()] == 8)
    misuse("%s is given %#lx, which is no address of the device", name, at);
}

// Sees that what an operation uses is there, and has it stay there.
void keep(Op& op) {
  op.uses.clear();
  if (op.kind == Op::LAUNCH)
    for (std::size_t i = 0; i < op.arguments.size(); ++i) keep_argument(op, i);
  if (op.kind == Op::COPY || op.kind == Op::FILL) {
    for (const std::uint64_t at : {op.to, op.from})
      if (at) op.uses.push_back(in_arena(at) ? device_range(at, op.bytes) : host_range(at, op.bytes));
  }
  for (const auto& [at, bytes] : op.ranges) op.uses.push_back(device_range(at, bytes));
  for (Memory* memory : op.uses) ++memory->queued;
}

void enqueue(Stream& stream, Op op) {
  if (stream.capture) {
    if (stream.capturing != std::this_thread::get_id()) misuse("another thread captures the stream");
    if (op.event) misuse("the fake captures no events");
    keep(op);
    for (Memory* memory : op.uses) --memory->queued;
    stream.capture->ops.push_back(std::move(op));
    return;
  }
  keep(op);
  if (op.event) ++op.event->queued;
  stream.queue.push_back(std::move(op));
}

// The kernels of PTX, and the bytes of their parameters.
void parse(const std::string& ptx, Module* module) {
  static const std::string ENTRY = ".visible .entry ";
  for (std::size_t at = ptx.find(ENTRY); at != std::string::npos; at = ptx.find(ENTRY, at + 1)) {
    auto function = std::make_unique<Function>();
    function->module = module;
    const std::size_t open = ptx.find('(', at), close = ptx.find(')', open), body = ptx.find('{', close);
    function->name = ptx.substr(at + ENTRY.size(), open - at - ENTRY.size());
    std::istringstream lines(ptx.substr(open + 1, close - open - 1));
    for (std::string line; std::getline(lines, line, ',');) {
      if (line.find(".param") == std::string::npos) continue;
      const std::size_t bracket = line.find('[');
      std::size_t bytes = 0;
      for (const char* kind : {".u8", ".u16", ".u32", ".u64", ".s32", ".s64", ".f32", ".f64", ".b8", ".b32", ".b64"})
        if (line.find(std::string(kind) + " ") != std::string::npos) bytes = std::stoul(std::string(kind).substr(2)) / 8;
      if (bracket != std::string::npos) bytes *= std::stoul(line.substr(bracket + 1));
      if (!bytes) misuse("cannot read the parameter%s", line.c_str());
      function->sizes.push_back(bytes);
    }
    const std::size_t most = ptx.substr(close, body - close).find(".maxntid ");
    if (most != std::string::npos) function->most_threads = unsigned(std::stoul(ptx.substr(close + most + 9)));
    Function* const key = function.get();
    functions[key] = std::move(function);
  }
}

}  // namespace

int fake_cuda_queue(const char* name, void* stream, Ranges ranges, std::function<void()> run) {
  return fake_cuda_queue_when(name, stream, std::move(ranges), nullptr, std::move(run));
}

int fake_cuda_queue_when(const char* name, void* stream, Ranges ranges, std::function<bool()> ready,
                         std::function<void()> run) {
  const Call call(name, CONTEXT);
  if (call.code) return call.code;
  Op op;
  op.kind = Op::LIBRARY, op.ranges = std::move(ranges), op.run = std::move(run), op.ready = std::move(ready);
  enqueue(stream_of(stream), std::move(op));
  return OK;
}

int fake_cuda_device() {
  const Call call(__func__, CONTEXT);
  return current->device;
}

void fake_cuda_outside(const char* name, void* stream) {
  const Call call(name, CONTEXT);
  outside_capture();
  if (stream) stream_of(stream);
}

extern "C" {

int cuInit(unsigned) {
  CALL(NOTHING);
  return contexts.empty() ? NO_DEVICE : OK;
}

int cuGetErrorName(int code, const char** name) {
  const auto found = CODES.find(code);
  *name = found == CODES.end() ? nullptr : found->second.first;
  return found == CODES.end() ? INVALID_VALUE : OK;
}

int cuGetErrorString(int code, const char** text) {
  const auto found = CODES.find(code);
  *text = found == CODES.end() ? nullptr : found->second.second;
  return found == CODES.end() ? INVALID_VALUE : OK;
}

int cuDriverGetVersion(int* version) {
  CALL(STARTED);
  *version = 13000;
  return OK;
}

int cuDeviceGetCount(int* count) {
  CALL(STARTED);
  *count = int(contexts.size());
  return OK;
}

int cuDeviceGet(int* device, int ordinal) {
  CALL(STARTED);
  if (ordinal < 0 || std::size_t(ordinal) >= contexts.size()) return INVALID_DEVICE;
  *device = ordinal;
  return OK;
}

int cuDeviceGetName(char* name, int length, int device) {
  CALL(STARTED);
  std::snprintf(name, length, "Fake %d", device);
  return OK;
}

int cuDeviceGetUuid_v2(unsigned char* id, int device) {
  CALL(STARTED);
  std::memset(id, 0, 16);
  id[15] = static_cast<unsigned char>(device);
  return OK;
}

int cuDeviceGetAttribute(int* value, int attribute, int) {
  CALL(STARTED);
  int major, minor;
  capability(major, minor);
  switch (attribute) {
    case 16: *value = 6; return OK;
    case 75: *value = major; return OK;
    case 76: *value = minor; return OK;
    default: misuse("attribute %d is none that the fake knows", attribute);
  }
}

int cuDevicePrimaryCtxRetain(void** context, int device) {
  CALL(STARTED);
  ++contexts.at(device).retained;
  *context = &contexts[device];
  return OK;
}

int cuDevicePrimaryCtxRelease_v2(int device) {
  CALL(STARTED);
  Context& context = contexts.at(device);
  if (!context.retained) misuse("it was not retained");
  if (--context.retained) return OK;
  const std::string all = left(&context);
  if (!all.empty()) misuse("there are still %s", all.c_str());
  return OK;
}

int cuCtxSetCurrent(void* context) {
  CALL(STARTED);
  Context* const one = static_cast<Context*>(context);
  if (one && !one->retained) misuse("the context was released");
  current = one;
  return OK;
}

int cuMemGetInfo_v2(std::size_t* free, std::size_t* total) {
  CALL(CONTEXT);
  *total = number("FAKE_CUDA_MEMORY", std::uint64_t(8) << 30);
  *free = *total - allocated[current->device];
  return OK;
}

int cuMemAlloc_v2(std::uint64_t* at, std::size_t bytes) {
  CALL(CONTEXT);
  outside_capture();
  if (!bytes) return INVALID_VALUE;
  if (bytes > number("FAKE_CUDA_MEMORY", std::uint64_t(8) << 30) - allocated[current->device]) return OUT_OF_MEMORY;
  const std::uint64_t aligned = (bytes + ALIGNED - 1) / ALIGNED * ALIGNED, span = (aligned + PAGE - 1) / PAGE * PAGE;
  if (top + span + PAGE > arena + ROOM) misuse("there are no more addresses");
  void* const pages = reinterpret_cast<void*>(top);
  mprotect(pages, span, PROT_READ | PROT_WRITE);
  std::memset(pages, 0xff, span);
  mprotect(pages, span, PROT_NONE);
  *at = top + span - aligned;
  top += span + PAGE;
  allocated[current->device] += bytes;
  device_memory[*at] = {*at, bytes, span, current};
  return OK;
}

int cuMemFree_v2(std::uint64_t at) {
  GIVE_BACK;
  outside_capture();
  const auto found = device_memory.find(at);
  if (found == device_memory.end()) misuse("%#lx was given back, or never allocated", at);
  const Memory& memory = found->second;
  if (memory.context != current) misuse("the memory is another device's");
  if (memory.queued) misuse("%u queued operations use the memory", memory.queued);
  madvise(reinterpret_cast<void*>(at / PAGE * PAGE), memory.span, MADV_DONTNEED);
  allocated[current->device] -= memory.bytes;
  device_memory.erase(found);
  return current->dead;
}

int cuMemHostAlloc(void** at, std::size_t bytes, unsigned) {
  CALL(CONTEXT);
  outside_capture();
  if (!bytes) return INVALID_VALUE;
  const std::size_t span = (bytes + PAGE - 1) / PAGE * PAGE;
  void* const pages = mmap(nullptr, span, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (pages == MAP_FAILED) return OUT_OF_MEMORY;
  std::memset(pages, 0xff, span);
  *at = pages;
  const std::uint64_t start = reinterpret_cast<std::uint64_t>(pages);
  host_memory[start] = {start, bytes, span, current};
  return OK;
}

int cuMemFreeHost(void* at) {
  GIVE_BACK;
  outside_capture();
  const auto found = host_memory.find(reinterpret_cast<std::uint64_t>(at));
  if (found == host_memory.end()) misuse("%p was given back, or never allocated", at);
  if (found->second.queued) misuse("%u queued operations use the memory", found->second.queued);
  munmap(at, found->second.span);
  host_memory.erase(found);
  return current->dead;
}

int cuMemsetD8Async(std::uint64_t at, unsigned char value, std::size_t bytes, void* stream) {
  CALL(CONTEXT);
  Op op;
  op.kind = Op::FILL, op.to = at, op.bytes = bytes, op.value = value;
  enqueue(stream_of(stream), std::move(op));
  return OK;
}

int cuMemcpyHtoDAsync_v2(std::uint64_t to, const void* from, std::size_t bytes, void* stream) {
  CALL(CONTEXT);
  Stream& on = stream_of(stream);
  if (!bytes) return OK;
  Op op;
  op.kind = Op::COPY, op.to = to, op.from = reinterpret_cast<std::uint64_t>(from), op.bytes = bytes;
  device_range(to, bytes);
  host_range(op.from, bytes);
  op.hash = on.capture ? 0 : hash(from, bytes);
  enqueue(on, std::move(op));
  return OK;
}

int cuMemcpyDtoHAsync_v2(void* to, std::uint64_t from, std::size_t bytes, void* stream) {
  CALL(CONTEXT);
  Stream& on = stream_of(stream);
  if (!bytes) return OK;
  Op op;
  op.kind = Op::COPY, op.to = reinterpret_cast<std::uint64_t>(to), op.from = from, op.bytes = bytes;
  host_range(op.to, bytes);
  device_range(from, bytes);
  // Nobody knows what is here before the copy has been done.
  std::memset(to, 0xff, bytes);
  enqueue(on, std::move(op));
  return OK;
}

int cuMemcpyDtoH_v2(void* to, std::uint64_t from, std::size_t bytes) {
  CALL(CONTEXT);
  outside_capture();
  if (!bytes) return OK;
  // It waits for no stream of ours.
  Memory* const memory = device_range(from, bytes);
  if (memory->queued) misuse("queued operations use the memory");
  const Reach reach;
  Reach::of({memory});
  std::memcpy(to, reinterpret_cast<const void*>(from), bytes);
  return OK;
}

int cuMemcpyDtoDAsync_v2(std::uint64_t to, std::uint64_t from, std::size_t bytes, void* stream) {
  CALL(CONTEXT);
  Op op;
  op.kind = Op::COPY, op.to = to, op.from = from, op.bytes = bytes;
  enqueue(stream_of(stream), std::move(op));
  return OK;
}

int cuStreamCreate(void** stream, unsigned flags) {
  CALL(CONTEXT);
  if (flags != 1) misuse("the stream waits for the default one");
  Stream* const one = new Stream;
  one->context = current, one->number = ++counts["streams"];
  streams.insert(one);
  *stream = one;
  return OK;
}

int cuStreamSynchronize(void* stream) {
  CALL(CONTEXT);
  Stream& one = stream_of(stream);
  outside_capture();
  return wait([&] { return one.queue.empty(); });
}

int cuStreamQuery(void* stream) {
  CALL(CONTEXT);
  Stream& one = stream_of(stream);
  outside_capture();
  return look([&] { return one.queue.empty(); });
}

int cuStreamDestroy_v2(void* stream) {
  GIVE_BACK;
  Stream& one = stream_of(stream);
  if (!one.queue.empty()) misuse("the stream has work");
  if (one.capture) misuse("the stream captures");
  streams.erase(&one);
  delete &one;
  return current->dead;
}

int cuStreamWaitEvent(void* stream, void* event, unsigned) {
  CALL(CONTEXT);
  Event& one = event_of(event);
  if (!one.recorded) misuse("the event stands for nothing yet");
  Op op;
  op.kind = Op::HOLD, op.event = &one, op.time = one.recorded;
  enqueue(stream_of(stream), std::move(op));
  return OK;
}

int cuStreamBeginCapture_v2(void* stream, int mode) {
  CALL(CONTEXT);
  Stream& one = stream_of(stream);
  if (one.capture) misuse("the stream captures already");
  if (mode != 1) misuse("others of this process may not go on: expected the mode of this thread");
  one.capture = new Graph;
  one.capture->context = current;
  one.capturing = std::this_thread::get_id();
  return OK;
}

int cuStreamEndCapture(void* stream, void** graph) {
  const Call call(__func__, CONTEXT);
  Stream& one = stream_of(stream);
  if (!one.capture || one.capturing != std::this_thread::get_id()) misuse("this thread does not capture it");
  const std::unique_ptr<Graph> captured(std::exchange(one.capture, nullptr));
  if (call.code) return call.code;
  *graph = new Graph(*captured);
  graphs.insert(static_cast<Graph*>(*graph));
  return OK;
}

int cuEventCreate(void** event, unsigned) {
  CALL(CONTEXT);
  Event* const one = new Event;
  one->context = current;
  events.insert(one);
  *event = one;
  return OK;
}

int cuEventRecord(void* event, void* stream) {
  CALL(CONTEXT);
  Event& one = event_of(event);
  Op op;
  op.kind = Op::RECORD, op.event = &one, op.time = ++one.recorded;
  enqueue(stream_of(stream), std::move(op));
  return OK;
}

int cuEventSynchronize(void* event) {
  CALL(CONTEXT);
  Event& one = event_of(event);
  outside_capture();
  return wait([&] { return one.done >= one.recorded; });
}

int cuEventQuery(void* event) {
  CALL(CONTEXT);
  Event& one = event_of(event);
  outside_capture();
  return look([&] { return one.done >= one.recorded; });
}

int cuEventDestroy_v2(void* event) {
  GIVE_BACK;
  Event& one = event_of(event);
  if (one.queued) misuse("%u queued operations use the event", one.queued);
  events.erase(&one);
  delete &one;
  return current->dead;
}

int cuModuleLoadData(void** module, const void* image) {
  CALL(CONTEXT);
  outside_capture();
  const std::string ptx = static_cast<const char*>(image);
  const std::size_t target = ptx.find(".target sm_");
  if (target == std::string::npos) misuse("the image is no PTX");
  int major, minor;
  capability(major, minor);
  if (std::stoi(ptx.substr(target + 11)) > 10 * major + minor) return NO_BINARY;
  char name[32];
  std::snprintf(name, sizeof name, "/%016lx.so", hash(ptx.data(), ptx.size()));
  const char* const folder = std::getenv("FAKE_CUDA_KERNELS");
  void* const library = dlopen(((folder ? folder : ".") + std::string(name)).c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!library) misuse("there is no library for this PTX: %s", dlerror());
  if (void* const seed = dlsym(library, "emulate_seed"))
    reinterpret_cast<void (*)(std::uint64_t)>(seed)(random_bits() | 1);
  Module* const one = new Module{current, library};
  modules.insert(one);
  parse(ptx, one);
  *module = one;
  return OK;
}

int cuModuleGetFunction(void** function, void* module, const char* name) {
  CALL(CONTEXT);
  Module& of = alive(modules, module, "the module");
  for (const auto& [key, one] : functions)
    if (one->module == &of && one->name == name) {
      *function = key;
      return OK;
    }
  return NOT_FOUND;
}

int cuFuncGetAttribute(int* value, int attribute, void* function) {
  CALL(CONTEXT);
  if (attribute != 4) misuse("attribute %d is none that the fake knows", attribute);
  if (!functions.count(static_cast<Function*>(function))) misuse("the function's module was unloaded, or it was never looked up");
  *value = 32;
  return OK;
}

int cuModuleUnload(void* module) {
  GIVE_BACK;
  outside_capture();
  Module& one = alive(modules, module, "the module");
  for (const Stream* stream : streams)
    for (const Op& op : stream->queue)
      if (op.function && op.function->module == &one) misuse("%s is queued", op.function->name.c_str());
  for (auto each = functions.begin(); each != functions.end();)
    each = each->second->module == &one ? functions.erase(each) : std::next(each);
  dlclose(one.library);
  modules.erase(&one);
  delete &one;
  return current->dead;
}

int cuLaunchKernel(void* function, unsigned x, unsigned y, unsigned z, unsigned threads, unsigned v, unsigned w,
                   unsigned shared, void* stream, void** given, void** extra) {
  CALL(CONTEXT);
  Stream& on = stream_of(stream);
  const auto found = functions.find(static_cast<Function*>(function));
  if (found == functions.end()) misuse("the function's module was unloaded, or it was never looked up");
  Function& one = *found->second;
  if (one.module->context != current) misuse("%s is of another context", one.name.c_str());
  if (y != 1 || z != 1 || v != 1 || w != 1 || shared || extra) misuse("%s: the fake has one dimension", one.name.c_str());
  if (!x || x > 0x7fffffff || !threads || threads > one.most_threads) return INVALID_VALUE;
  Op op;
  op.kind = Op::LAUNCH, op.function = &one, op.blocks = x, op.threads = threads;
  for (std::size_t i = 0; i < one.sizes.size(); ++i) {
    if (!given || !given[i]) misuse("%s has %zu parameters, and is not given number %zu", one.name.c_str(), one.sizes.size(), i);
    op.offsets.push_back(8 * op.arguments.size());
    op.arguments.resize(op.arguments.size() + (one.sizes[i] + 7) / 8);
    std::memcpy(reinterpret_cast<char*>(op.arguments.data()) + op.offsets.back(), given[i], one.sizes[i]);
  }
  enqueue(on, std::move(op));
  return OK;
}

int cuGraphInstantiateWithFlags(void** exec, void* graph, unsigned long long) {
  CALL(CONTEXT);
  Exec* const one = new Exec;
  one->context = current, one->ops = alive(graphs, graph, "the graph").ops;
  execs.insert(one);
  *exec = one;
  return OK;
}

int cuGraphDestroy(void* graph) {
  GIVE_BACK;
  Graph& one = alive(graphs, graph, "the graph");
  graphs.erase(&one);
  delete &one;
  return current->dead;
}

int cuGraphLaunch(void* exec, void* stream) {
  CALL(CONTEXT);
  Exec& one = alive(execs, exec, "the instantiated graph");
  Stream& on = stream_of(stream);
  if (on.capture) misuse("the stream captures");
  ++replayed;
  for (Op op : one.ops) {
    op.exec = &one;
    ++one.queued;
    enqueue(on, std::move(op));
  }
  return OK;
}

int cuGraphExecDestroy(void* exec) {
  GIVE_BACK;
  Exec& one = alive(execs, exec, "the instantiated graph");
  if (one.queued) misuse("%u operations of the graph are queued", one.queued);
  execs.erase(&one);
  delete &one;
  return current->dead;
}

}  // extern "C"
