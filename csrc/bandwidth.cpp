#include "bandwidth.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <thread>
#include <vector>

#include "device.h"
#include "pages.h"
#include "thread.h"

namespace moeflux {
namespace {

constexpr std::size_t kBlock = 4096;
constexpr int kPasses = 4;

// Independent sums let loads run ahead of additions.
std::uint64_t sum(const std::byte* data, std::size_t nbytes) {
  std::uint64_t sums[16] = {};
  for (std::size_t offset = 0; offset + sizeof(sums) <= nbytes; offset += sizeof(sums)) {
    std::uint64_t values[16];
    std::memcpy(values, data + offset, sizeof(values));
    for (int i = 0; i < 16; ++i) sums[i] += values[i];
  }
  std::uint64_t total = 0;
  for (const std::uint64_t value : sums) total += value;
  return total;
}

}  // namespace

double measure_read_bandwidth(std::size_t nbytes, unsigned n_threads) {
  if (n_threads == 0) n_threads = std::max(1U, std::thread::hardware_concurrency());
  const std::size_t share = std::max<std::size_t>(nbytes / n_threads / kBlock, 1) * kBlock;
  Pages pages(share * n_threads);
  std::memset(pages.address(), 1, share * n_threads);
  std::atomic<std::uint64_t> total{0};
  double best = 0;
  for (int pass = 0; pass < kPasses; ++pass) {
    const auto started = std::chrono::steady_clock::now();
    std::vector<std::thread> threads;
    for (unsigned i = 0; i < n_threads; ++i) {
      threads.push_back(start_thread([&, i] { total += sum(pages.address() + i * share, share); }));
    }
    for (std::thread& thread : threads) thread.join();
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - started;
    best = std::max(best, static_cast<double>(share * n_threads) / seconds.count());
  }
  return best;
}

}  // namespace moeflux
