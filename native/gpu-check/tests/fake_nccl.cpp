// NCCL on the driver of `fake_cuda.cpp`: sums over the cards of one process, computed by the host. Nothing blocks, as was asked of
// it: what is begun is queued, and a worker has joined, only some looks later. Whoever goes on before that is found out. Only who
// leaves waits, until all have left: so does the real one within a machine.

#include <unistd.h>

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "fake_library.h"

namespace {

enum Status { SUCCESS = 0, INVALID_ARGUMENT = 4, IN_PROGRESS = 7 };
enum Type { FLOAT32 = 7, FLOAT64 = 8 };

constexpr int SUM = 0, VERSION = 22703, UNDEFINED = INT32_MIN;
constexpr unsigned MAGIC = 0xcafebeef, LATE = 3;

struct Id {
  char bytes[128];
};

// As NCCL 2.17 has it, and one number of a newer one, for which it has room.
struct Config {
  std::size_t size;
  unsigned magic, version;
  int blocking, cga, least, most;
  const char* net;
  int split, traffic;
};

struct Sum {
  std::uint64_t at;
  std::size_t count;
  int type;

  std::uint64_t bytes() const { return count * (type == FLOAT32 ? 4 : 8); }
  bool operator==(const Sum& other) const { return count == other.count && type == other.type; }
};

// What all do together, once.
struct Round {
  std::vector<Sum> sums;
  std::vector<std::vector<char>> parts;
  unsigned put = 0;
};

struct Meeting {
  unsigned world, finalized = 0, left = 0;
  std::set<unsigned> ranks;
  std::set<int> cards;
  std::map<std::uint64_t, Round> rounds;
};

struct Communicator {
  std::shared_ptr<Meeting> meeting;
  unsigned rank, late = LATE;
  std::uint64_t next = 0;
  std::vector<Sum> begun;
  void* stream = nullptr;
  bool aborted = false, finalized = false;
  unsigned queued = 0;
};

Library library("NCCL");
std::mutex lock;
std::condition_variable somebody_left;
std::map<std::string, std::shared_ptr<Meeting>> meetings;
std::atomic<unsigned> ids{0}, all_reduced{0};
thread_local unsigned depth = 0;
thread_local std::set<void*> grouped;

void end() {
  std::fprintf(stderr, "fake NCCL: %u groups of sums\n", all_reduced.load());
  if (!library.is_empty()) _exit(98);
}

// It lives on while work that names it is queued.
using Handle = std::shared_ptr<Communicator>;

Communicator& there(void* handle) { return **&library.there<Handle>(handle); }

// Waits until all who have joined have left.
void leave(Meeting& meeting) {
  std::unique_lock<std::mutex> locked(lock);
  ++meeting.left;
  somebody_left.notify_all();
  somebody_left.wait(locked, [&] { return meeting.left == meeting.ranks.size(); });
}

// What all have put there.
void add(const Round& round, const Sum& sum, char* to, std::size_t offset) {
  for (std::size_t i = 0; i < sum.count; ++i) {
    double wide = 0.0;
    float narrow = 0.0f;
    for (const std::vector<char>& part : round.parts) {
      if (sum.type == FLOAT32) {
        float value;
        std::memcpy(&value, part.data() + offset + 4 * i, 4);
        narrow += value;
      } else {
        double value;
        std::memcpy(&value, part.data() + offset + 8 * i, 8);
        wide += value;
      }
    }
    if (sum.type == FLOAT32)
      std::memcpy(to + 4 * i, &narrow, 4);
    else
      std::memcpy(to + 8 * i, &wide, 8);
  }
}

// Queues what was begun: everybody's part first, then, when all are there, the sums.
void queue(const Handle& one) {
  Communicator& of = *one;
  const std::vector<Sum> sums = std::exchange(of.begun, {});
  const std::uint64_t nth = of.next++;
  Ranges ranges;
  for (const Sum& sum : sums) ranges.emplace_back(sum.at, sum.bytes());
  ++all_reduced;
  of.queued += 2;
  fake_cuda_queue("ncclAllReduce", of.stream, ranges, [one, sums, nth] {
    const std::lock_guard<std::mutex> locked(lock);
    --one->queued;
    if (one->aborted) return;
    Round& round = one->meeting->rounds[nth];
    if (round.parts.empty()) round.parts.resize(one->meeting->world), round.sums = sums;
    if (round.sums != sums) library.misuse("rank %u adds up other numbers than the others do", one->rank);
    for (const Sum& sum : sums) {
      const char* const from = reinterpret_cast<const char*>(sum.at);
      round.parts[one->rank].insert(round.parts[one->rank].end(), from, from + sum.bytes());
    }
    ++round.put;
  });
  const auto ready = [one, nth] {
    const std::lock_guard<std::mutex> locked(lock);
    return one->aborted || one->meeting->rounds[nth].put == one->meeting->world;
  };
  fake_cuda_queue_when("ncclAllReduce", of.stream, ranges, ready, [one, sums, nth] {
    const std::lock_guard<std::mutex> locked(lock);
    --one->queued;
    if (one->aborted) return;
    std::size_t offset = 0;
    for (const Sum& sum : sums) {
      add(one->meeting->rounds[nth], sum, reinterpret_cast<char*>(sum.at), offset);
      offset += sum.bytes();
    }
    // Whoever is here has taken the sums before.
    one->meeting->rounds.erase(nth - 1);
  });
}

}  // namespace

extern "C" {

int ncclGetVersion(int* version) {
  *version = VERSION;
  return SUCCESS;
}

int ncclGetUniqueId(Id* id) {
  static const int once = std::atexit(end);
  (void)once;
  std::memset(id, 0, sizeof *id);
  std::snprintf(id->bytes, sizeof id->bytes, "meeting %u", ++ids);
  return SUCCESS;
}

int ncclCommInitRankConfig(void** to, int world, Id id, int rank, const Config* config) {
  fake_cuda_outside("ncclCommInitRankConfig", nullptr);
  if (config->size < sizeof(Config) || config->magic != MAGIC || config->version < 21700 || config->version > VERSION)
    return INVALID_ARGUMENT;
  for (const int number : {config->cga, config->least, config->most, config->split, config->traffic})
    if (number != UNDEFINED) library.misuse("a number of the configuration is not set, and is not said to be");
  if (config->net) library.misuse("the configuration names a network");
  if (config->blocking) library.misuse("its calls would block, for as long as another worker likes");
  if (rank < 0 || rank >= world || std::strncmp(id.bytes, "meeting ", 8)) return INVALID_ARGUMENT;
  const std::lock_guard<std::mutex> locked(lock);
  std::shared_ptr<Meeting>& meeting = meetings[id.bytes];
  if (!meeting) meeting = std::make_shared<Meeting>(), meeting->world = unsigned(world);
  if (meeting->world != unsigned(world) || !meeting->ranks.insert(rank).second) library.misuse("rank %d comes twice", rank);
  // As the real one: not two of a card.
  if (!meeting->cards.insert(fake_cuda_device()).second) return INVALID_ARGUMENT;
  auto one = std::make_shared<Communicator>();
  one->meeting = meeting, one->rank = unsigned(rank);
  *to = library.make(new Handle(std::move(one)));
  return IN_PROGRESS;
}

int ncclCommGetAsyncError(void* handle, int* state) {
  const Handle one = library.there<Handle>(handle);
  bool done;
  {
    const std::lock_guard<std::mutex> locked(lock);
    if (one->late > 0) --one->late;
    const Meeting& meeting = *one->meeting;
    done = one->late == 0 && meeting.ranks.size() == meeting.world;
    if (one->finalized) done = done && meeting.finalized == meeting.world;
  }
  if (done && !one->begun.empty()) queue(one);
  *state = done ? SUCCESS : IN_PROGRESS;
  return SUCCESS;
}

const char* ncclGetLastError(void*) { return "fake NCCL says no"; }

int ncclGroupStart() {
  ++depth;
  return SUCCESS;
}

int ncclAllReduce(const void* from, void* to, std::size_t count, int type, int op, void* handle, void* stream) {
  fake_cuda_outside("ncclAllReduce", stream);
  Communicator& one = there(handle);
  if (!depth) library.misuse("a sum by itself, which is more of a launch than it need be");
  if (from != to) library.misuse("the fake adds up in place only");
  if (op != SUM || (type != FLOAT32 && type != FLOAT64)) return INVALID_ARGUMENT;
  if (one.late || one.finalized || one.aborted) library.misuse("sums are begun before what came before is ready, or after the end");
  if (!one.begun.empty() && one.stream != stream) library.misuse("a group has one stream");
  one.begun.push_back({reinterpret_cast<std::uint64_t>(to), count, type});
  one.stream = stream;
  grouped.insert(handle);
  return SUCCESS;
}

int ncclGroupEnd() {
  if (!depth) library.misuse("a group ends that has not begun");
  if (--depth) return SUCCESS;
  const bool some = !grouped.empty();
  for (void* handle : grouped) there(handle).late = LATE;
  grouped.clear();
  return some ? IN_PROGRESS : SUCCESS;
}

int ncclCommFinalize(void* handle) {
  Communicator& one = there(handle);
  const std::lock_guard<std::mutex> locked(lock);
  if (one.late || one.finalized) library.misuse("the end comes before what was begun is ready, or twice");
  one.finalized = true, one.late = LATE;
  ++one.meeting->finalized;
  return IN_PROGRESS;
}

int ncclCommDestroy(void* handle) {
  Communicator& one = there(handle);
  if (!one.finalized || one.late) library.misuse("it is destroyed before its end");
  if (one.queued) library.misuse("sums are queued");
  leave(*one.meeting);
  library.give_back<Handle>(handle);
  return SUCCESS;
}

int ncclCommAbort(void* handle) {
  fake_cuda_outside("ncclCommAbort", nullptr);
  const std::shared_ptr<Communicator> one = library.there<Handle>(handle);
  {
    const std::lock_guard<std::mutex> locked(lock);
    one->aborted = true;
  }
  leave(*one->meeting);
  library.give_back<Handle>(handle);
  return SUCCESS;
}

}  // extern "C"
