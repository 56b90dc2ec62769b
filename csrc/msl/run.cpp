// The functions of run.h: pipelines, and the threadgroups of a dispatch over OS threads.
#define MSL_EXPORT __attribute__((visibility("default")))
#include "run.h"

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstring>
#include <memory>
#include <mutex>
#include <new>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "library.h"
#include "race.h"
#include "threadgroup.h"

struct msl_pipeline {
  const msl::Entry* entry;
  std::vector<std::vector<std::byte>> constants;  // one per constant of the library, empty without a value
};

namespace msl {
namespace {

// Held while a dispatch runs, for the library's kernels read their function constants from variables.
std::mutex& library_mutex() {
  static std::mutex mutex;
  return mutex;
}

// Kept between dispatches with their stacks.
std::vector<std::unique_ptr<Threadgroup>>& threadgroups() {
  static std::vector<std::unique_ptr<Threadgroup>> all;
  return all;
}

void write_message(char* message, const std::string& text) {
  std::snprintf(message, MSL_MESSAGE_BYTES, "%s", text.c_str());
}

Extent extent_of(const std::uint32_t* size) { return {size[0], size[1], size[2]}; }

msl_status check_bindings(const msl_dispatch& dispatch, std::string& message) {
  const msl_kernel& kernel = dispatch.pipeline->entry->kernel;
  for (std::size_t i = 0; i < kernel.n_arguments; ++i) {
    const msl_argument& argument = kernel.arguments[i];
    const bool is_buffer = argument.kind == MSL_ARGUMENT_BUFFER;
    if (is_buffer && dispatch.buffers[argument.index].address == nullptr) {
      message = "buffer " + std::to_string(argument.index) + " '" + argument.name + "' is not bound";
      return MSL_WRONG_BINDING;
    }
    if (!is_buffer && dispatch.threadgroup_nbytes[argument.index] == 0) {
      message = "threadgroup memory " + std::to_string(argument.index) + " '" + argument.name + "' has no length";
      return MSL_WRONG_BINDING;
    }
  }
  return MSL_OK;
}

msl_status check_limits(const msl_dispatch& dispatch, std::string& message) {
  const Entry& entry = *dispatch.pipeline->entry;
  const std::size_t n_threads = count(extent_of(dispatch.threads));
  const std::size_t most_threads = std::min<std::size_t>(entry.max_threads, MSL_MAX_THREADS);
  if (n_threads == 0 || n_threads > most_threads) {
    message = std::to_string(n_threads) + " threads in a threadgroup, wanted 1 to " + std::to_string(most_threads);
    return MSL_LIMIT;
  }
  if (count(extent_of(dispatch.threadgroups)) == 0) {
    message = "a dispatch of no threadgroups";
    return MSL_LIMIT;
  }
  std::size_t nbytes = entry.kernel.static_threadgroup_nbytes;
  for (const std::size_t length : dispatch.threadgroup_nbytes) nbytes += length;
  if (nbytes > MSL_MAX_THREADGROUP_BYTES) {
    message = "threadgroup memory of " + std::to_string(nbytes) + " bytes, at most " +
              std::to_string(MSL_MAX_THREADGROUP_BYTES) + " are allowed";
    return MSL_LIMIT;
  }
  return MSL_OK;
}

void load_constants(const msl_pipeline& pipeline) {
  for (std::size_t i = 0; i < library.n_constants; ++i) {
    const std::vector<std::byte>& value = pipeline.constants[i];
    if (!value.empty()) std::memcpy(library.constants[i].address, value.data(), value.size());
  }
  library.derive_constants();
}

Extent position_of(std::size_t index, Extent count) {
  const std::size_t y = index / count.x;
  return {static_cast<std::uint32_t>(index % count.x), static_cast<std::uint32_t>(y % count.y),
          static_cast<std::uint32_t>(y / count.y)};
}

void run_threadgroups(const msl_dispatch& dispatch, std::size_t n_workers) {
  const Extent extent = extent_of(dispatch.threadgroups);
  const std::size_t n_threadgroups = count(extent);
  std::atomic<std::size_t> next = 0;
  std::atomic<bool> stopped = false;
  const bool backward = (dispatch.order & 1) != 0;
  const auto work = [&](Threadgroup& group) {
    for (std::size_t i; !stopped && (i = next++) < n_threadgroups;) {
      group.run(*dispatch.pipeline->entry, position_of(backward ? n_threadgroups - 1 - i : i, extent));
      if (group.status() != MSL_OK) stopped = true;
    }
  };
  std::vector<std::jthread> threads;
  for (std::size_t i = 1; i < n_workers; ++i) threads.emplace_back(work, std::ref(*threadgroups()[i]));
  work(*threadgroups()[0]);
}

std::size_t worker_count([[maybe_unused]] const msl_dispatch& dispatch) {
#if defined(MSL_MODE_RACE)
  return 1;
#else
  const std::size_t wanted = dispatch.workers != 0 ? dispatch.workers : std::thread::hardware_concurrency();
  return std::clamp<std::size_t>(wanted, 1, count(extent_of(dispatch.threadgroups)));
#endif
}

msl_status collect(std::size_t n_workers, msl_report& report) {
  msl_status status = MSL_OK;
  for (std::size_t i = 0; i < n_workers; ++i) {
    const Threadgroup& group = *threadgroups()[i];
    report.barriers += group.counters().barriers;
    report.simd_operations += group.counters().simd_operations;
    report.divergent_operations += group.counters().divergent_operations;
    if (report.divergence[0] == '\0') {
      std::snprintf(report.divergence, sizeof(report.divergence), "%s", group.counters().divergence.c_str());
    }
    if (status == MSL_OK && group.status() != MSL_OK) {
      status = group.status();
      if (!group.message().empty()) write_message(report.message, group.message());
    }
  }
  return status;
}

msl_status run(const msl_dispatch& dispatch, msl_report& report) {
  std::string message;
  msl_status status = check_bindings(dispatch, message);
  if (status == MSL_OK) status = check_limits(dispatch, message);
  if (status != MSL_OK) {
    write_message(report.message, message);
    return status;
  }
  const std::lock_guard lock(library_mutex());
  load_constants(*dispatch.pipeline);
  const std::size_t n_workers = worker_count(dispatch);
  while (threadgroups().size() < n_workers) threadgroups().push_back(std::make_unique<Threadgroup>());
  for (std::size_t i = 0; i < n_workers; ++i) threadgroups()[i]->begin(dispatch);
  const std::span<const std::byte> memory = threadgroups()[0]->memory();
  race::begin(dispatch, memory.data(), memory.size());
  run_threadgroups(dispatch, n_workers);
  const msl_status race_status = race::end(report);
  status = collect(n_workers, report);
  return status != MSL_OK ? status : race_status;
}

}  // namespace
}  // namespace msl

extern "C" {

const char* msl_mode(void) {
#if defined(MSL_MODE_RACE)
  return "race";
#elif defined(MSL_MODE_ADDRESS)
  return "address";
#else
  return "default";
#endif
}

size_t msl_kernel_count(void) { return msl::library.n_entries; }
const msl_kernel* msl_kernel_at(size_t i) {
  return i < msl::library.n_entries ? &msl::library.entries[i].kernel : nullptr;
}
size_t msl_constant_count(void) { return msl::library.n_constants; }
const msl_constant* msl_constant_at(size_t i) {
  return i < msl::library.n_constants ? &msl::library.constants[i].constant : nullptr;
}

msl_status msl_pipeline_create(const char* kernel, const msl_constant_value* values, size_t n_values,
                               msl_pipeline** pipeline, char* message) {
  const msl::Library& library = msl::library;
  const auto fail = [&](msl_status status, const std::string& text) {
    msl::write_message(message, text);
    return status;
  };
  *pipeline = nullptr;
  const msl::Entry* entry = std::find_if(library.entries, library.entries + library.n_entries,
                                         [&](const auto& row) { return std::strcmp(row.kernel.name, kernel) == 0; });
  if (entry == library.entries + library.n_entries) {
    return fail(MSL_UNKNOWN_KERNEL, std::string("no kernel '") + kernel + "'");
  }
  auto created = std::make_unique<msl_pipeline>();
  created->entry = entry;
  created->constants.resize(library.n_constants);
  for (size_t i = 0; i < n_values; ++i) {
    const msl_constant_value& value = values[i];
    const auto* end = library.constants + library.n_constants;
    const auto* found = std::find_if(library.constants, end,
                                     [&](const auto& row) { return std::strcmp(row.constant.name, value.name) == 0; });
    const std::string name = std::string("function constant '") + value.name + "'";
    if (found == end) return fail(MSL_WRONG_CONSTANT, name + " is unknown");
    if (found->constant.nbytes != value.nbytes) {
      return fail(MSL_WRONG_CONSTANT, name + " has " + std::to_string(found->constant.nbytes) + " bytes, got " +
                                          std::to_string(value.nbytes));
    }
    const auto* bytes = static_cast<const std::byte*>(value.bytes);
    created->constants[static_cast<size_t>(found - library.constants)].assign(bytes, bytes + value.nbytes);
  }
  for (size_t i = 0; i < entry->kernel.n_constants; ++i) {
    for (size_t c = 0; c < library.n_constants; ++c) {
      const bool used = std::strcmp(entry->kernel.constants[i], library.constants[c].constant.name) == 0;
      if (used && created->constants[c].empty()) {
        return fail(MSL_WRONG_CONSTANT, std::string("kernel '") + kernel + "' needs function constant '" +
                                            entry->kernel.constants[i] + "'");
      }
    }
  }
  *pipeline = created.release();
  return MSL_OK;
}

void msl_pipeline_destroy(msl_pipeline* pipeline) { delete pipeline; }
const msl_kernel* msl_pipeline_kernel(const msl_pipeline* pipeline) { return &pipeline->entry->kernel; }

msl_status msl_run(const msl_dispatch* dispatch, msl_report* report) {
  std::memset(report, 0, sizeof(*report));
  try {
    const msl_status status = msl::run(*dispatch, *report);
    if (status != MSL_OK) {
      const std::string text = report->message;
      msl::write_message(report->message, std::string(dispatch->pipeline->entry->kernel.name) + ": " + text);
    }
    return status;
  } catch (const std::exception& error) {
    msl::write_message(report->message, error.what());
    return MSL_HOST;
  }
}

}  // extern "C"
