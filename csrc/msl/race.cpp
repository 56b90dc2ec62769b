// The race detector: one shadow cell per byte of bound and threadgroup memory.
#include "race.h"

#if defined(MSL_MODE_RACE)

#include <sys/mman.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <memory>
#include <new>
#include <string>
#include <utility>
#include <vector>

#include "shader_line.h"
#include "threadgroup.h"

namespace msl::race {
namespace {

// Thread ids of accesses that no single thread made.
constexpr std::uint16_t WHOLE_SIMDGROUP = 0x8000;  // or-ed with the simdgroup's index
constexpr std::uint16_t MANY_THREADS = 0xffff;

// Who touched a byte last, and when. A threadgroup of 0 means nobody.
struct Toucher {
  std::uint32_t threadgroup;
  std::uint32_t epoch;
  std::uint32_t simdgroup_epoch;
  std::uint32_t place;  // offset of the code
  std::uint16_t thread;
  bool atomic;
  bool many_threadgroups;
  bool many_lanes;       // of one simdgroup
  bool many_simdgroups;  // of one threadgroup
};

struct Cell {
  Toucher writer;
  Toucher reader;
};

// Shadow of a range of memory, zero where nothing was touched.
class Shadow {
 public:
  Shadow(const void* memory, std::size_t nbytes, bool is_threadgroup)
      : is_threadgroup(is_threadgroup), begin_(reinterpret_cast<std::uintptr_t>(memory)), nbytes_(nbytes) {
    const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    void* cells = ::mmap(nullptr, nbytes * sizeof(Cell), PROT_READ | PROT_WRITE, flags, -1, 0);
    if (cells == MAP_FAILED) throw std::bad_alloc();
    cells_ = static_cast<Cell*>(cells);
  }
  ~Shadow() { ::munmap(cells_, nbytes_ * sizeof(Cell)); }
  Shadow(const Shadow&) = delete;
  Shadow& operator=(const Shadow&) = delete;

  bool contains(std::uintptr_t address, std::size_t nbytes) const {
    return address - begin_ < nbytes_ && nbytes <= nbytes_ - (address - begin_);
  }
  Cell* cells(std::uintptr_t address) { return cells_ + (address - begin_); }

  const bool is_threadgroup;

 private:
  std::uintptr_t begin_;
  std::size_t nbytes_;
  Cell* cells_;
};

struct Finding {
  msl_status status;
  std::string what;
  std::uint32_t place;
  std::uint32_t other_place;  // 0: none
};

constexpr std::size_t MOST_FINDINGS = 4;  // different ones, all that a message has room for

struct Detector {
  std::vector<std::unique_ptr<Shadow>> shadows;
  std::vector<Finding> findings;
  std::uint64_t n_races = 0;
};

// Hooks have no argument for it; race mode runs one dispatch on one thread at a time.
Detector& detector() {
  static Detector instance;
  return instance;
}

std::uint32_t simdgroup_of(std::uint16_t thread) {
  return thread & WHOLE_SIMDGROUP ? thread & ~WHOLE_SIMDGROUP : thread / MSL_SIMD_WIDTH;
}

const char* name(Access access) {
  switch (access) {
    case Access::READ:
      return "read";
    case Access::WRITE:
      return "write";
    default:
      return "atomic access";
  }
}

void add_finding(msl_status status, std::string what, std::uint32_t place, std::uint32_t other_place) {
  std::vector<Finding>& findings = detector().findings;
  for (const Finding& known : findings) {
    if (known.place == place && known.other_place == other_place) return;
  }
  // A missing barrier shows as reads of unwritten memory, too; the race says more and comes first.
  const auto is_other = [](const Finding& known) { return known.status != MSL_RACE; };
  const auto at = status == MSL_RACE ? std::find_if(findings.begin(), findings.end(), is_other) : findings.end();
  findings.insert(at, {status, std::move(what), place, other_place});
  if (findings.size() > MOST_FINDINGS) findings.pop_back();
}

// Whether nothing orders an earlier access before one by `now`.
bool is_unordered(const Toucher& before, const Toucher& now, bool is_threadgroup) {
  if (before.threadgroup == 0) return false;
  if (before.threadgroup != now.threadgroup || before.many_threadgroups) return !is_threadgroup;
  if (before.epoch != now.epoch) return false;
  if (before.many_simdgroups || before.thread == MANY_THREADS) return true;
  if (before.thread == now.thread && !before.many_lanes) return false;
  if (simdgroup_of(before.thread) != simdgroup_of(now.thread)) return true;
  return before.simdgroup_epoch == now.simdgroup_epoch;
}

// The reader that stands for all readers since the last write.
Toucher merged_reader(const Toucher& before, Toucher now) {
  if (before.threadgroup == 0) return now;
  if (before.threadgroup != now.threadgroup) {
    now.many_threadgroups = true;
    return now;
  }
  now.many_threadgroups = before.many_threadgroups;
  if (before.epoch != now.epoch) return now;
  now.many_simdgroups = before.many_simdgroups || simdgroup_of(before.thread) != simdgroup_of(now.thread);
  if (before.simdgroup_epoch == now.simdgroup_epoch) {
    now.many_lanes = before.many_lanes || before.thread != now.thread;
  }
  return now;
}

void report_race(const Shadow& shadow, Access access, const Toucher& now, const Toucher& before, const char* earlier) {
  ++detector().n_races;
  const char* memory = shadow.is_threadgroup ? "threadgroup" : "device";
  std::string what = std::string("race in ") + memory + " memory: " + name(access) + " by thread " +
                     std::to_string(now.thread & ~WHOLE_SIMDGROUP);
  if (now.thread & WHOLE_SIMDGROUP)
    what = std::string("race in ") + memory + " memory: " + name(access) + " by a simdgroup";
  what += std::string(" at %, unordered with a ") + earlier;
  if (before.threadgroup != now.threadgroup || before.many_threadgroups) what += " by another threadgroup";
  what += " at %";
  add_finding(MSL_RACE, std::move(what), now.place, before.place);
}

void touch_byte(Shadow& shadow, Cell& cell, Access access, const Toucher& now) {
  const bool reads = access == Access::READ;
  if (shadow.is_threadgroup && (reads || access == Access::ATOMIC_UPDATE) &&
      cell.writer.threadgroup != now.threadgroup) {
    add_finding(MSL_UNINITIALISED_READ, "read at % of threadgroup memory that nobody wrote", now.place, 0);
  }
  const bool both_atomic = now.atomic && cell.writer.atomic;
  const bool after_write = is_unordered(cell.writer, now, shadow.is_threadgroup);
  if (after_write && !both_atomic) {
    report_race(shadow, access, now, cell.writer, cell.writer.atomic ? "atomic access" : "write");
  } else if (!reads && is_unordered(cell.reader, now, shadow.is_threadgroup)) {
    report_race(shadow, access, now, cell.reader, "read");
  }
  if (reads) {
    cell.reader = merged_reader(cell.reader, now);
    return;
  }
  Toucher writer = now;
  if (both_atomic && after_write) {
    writer.thread = MANY_THREADS;
    writer.many_threadgroups = cell.writer.many_threadgroups || cell.writer.threadgroup != now.threadgroup;
  }
  cell.writer = writer;
  cell.reader = {};
}

// Memory of the runner that the shader's own code reads: its place, its arguments and its neighbours' values.
bool is_runner_memory(const Threadgroup& group, const void* address) {
  const auto inside = [address](const void* begin, std::size_t nbytes) {
    return reinterpret_cast<std::uintptr_t>(address) - reinterpret_cast<std::uintptr_t>(begin) < nbytes;
  };
  return inside(&group, sizeof(group)) || inside(group.simdgroups, group.n_simdgroups * sizeof(Simdgroup)) ||
         inside(group.dispatch, sizeof(*group.dispatch)) || inside(&current, sizeof(current)) || is_in_library(address);
}

void touch(const void* address, std::size_t nbytes, Access access, std::uint16_t thread, const void* code) {
  auto& group = *static_cast<Threadgroup*>(current);
  const auto first = reinterpret_cast<std::uintptr_t>(address);
  for (const std::unique_ptr<Shadow>& shadow : detector().shadows) {
    if (!shadow->contains(first, nbytes)) continue;
    if (shadow->is_threadgroup && !group.owns(address, nbytes)) break;
    const Simdgroup& simdgroup = group.simdgroup();
    Toucher now{};
    now.threadgroup = static_cast<std::uint32_t>(group.serial());
    now.epoch = static_cast<std::uint32_t>(shadow->is_threadgroup ? group.threadgroup_epoch() : group.device_epoch());
    now.simdgroup_epoch =
        static_cast<std::uint32_t>(shadow->is_threadgroup ? simdgroup.threadgroup_epoch : simdgroup.device_epoch);
    now.place = library_offset(code);
    now.thread = thread;
    now.atomic = access == Access::ATOMIC_UPDATE || access == Access::ATOMIC_WRITE;
    Cell* cells = shadow->cells(first);
    for (std::size_t i = 0; i < nbytes; ++i) touch_byte(*shadow, cells[i], access, now);
    return;
  }
  if (is_runner_memory(group, address)) return;
  const std::string size = std::to_string(nbytes) + (nbytes == 1 ? " byte" : " bytes");
  add_finding(MSL_OUT_OF_BOUNDS, std::string(name(access)) + " of " + size + " at % outside of all bound memory",
              library_offset(code), 0);
  group.fail(MSL_OUT_OF_BOUNDS, "");
}

std::string text_of(const Finding& finding) {
  std::string text = finding.what;
  for (const std::uint32_t place : {finding.place, finding.other_place}) {
    const std::size_t at = text.find('%');
    if (at != std::string::npos) text.replace(at, 1, shader_line(place));
  }
  return text;
}

}  // namespace

void begin(const msl_dispatch& dispatch, const void* threadgroup_memory, std::size_t nbytes) {
  Detector& all = detector();
  all.shadows.clear();
  all.findings.clear();
  all.n_races = 0;
  all.shadows.push_back(std::make_unique<Shadow>(threadgroup_memory, nbytes, true));
  for (const msl_buffer& buffer : dispatch.buffers) {
    if (buffer.address != nullptr && buffer.nbytes != 0) {
      all.shadows.push_back(std::make_unique<Shadow>(buffer.address, buffer.nbytes, false));
    }
  }
}

msl_status end(msl_report& report) {
  Detector& all = detector();
  report.races = all.n_races;
  std::string message;
  for (const Finding& finding : all.findings) message += (message.empty() ? "" : "; ") + text_of(finding);
  std::snprintf(report.message, sizeof(report.message), "%s", message.c_str());
  all.shadows.clear();
  return all.findings.empty() ? MSL_OK : all.findings.front().status;
}

void note(const void* address, std::size_t nbytes, Access access, const void* code) {
  if (current == nullptr || static_cast<Threadgroup*>(current)->stacks().contains(address)) return;
  touch(address, nbytes, access, static_cast<std::uint16_t>(current->thread), code);
}

void note_simdgroup(const void* address, std::size_t nbytes, Access access, const void* code) {
  const auto simdgroup = static_cast<std::uint16_t>(current->thread / MSL_SIMD_WIDTH);
  if (static_cast<Threadgroup*>(current)->stacks().contains(address)) return;
  touch(address, nbytes, access, WHOLE_SIMDGROUP | simdgroup, code);
}

}  // namespace msl::race

#endif
