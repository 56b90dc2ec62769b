#include "bandwidth.h"

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <thread>
#include <vector>

#include "cpu/functions.h"
#include "pages.h"
#include "thread.h"

namespace moeflux {
namespace {

constexpr std::size_t kBlock = 4096;
constexpr int kPasses = 4;

}  // namespace

double measure_read_bandwidth(std::size_t nbytes, unsigned n_threads) {
  if (n_threads == 0) n_threads = std::max(1U, std::thread::hardware_concurrency());
  const std::size_t share = std::max<std::size_t>(nbytes / n_threads / kBlock, 1) * kBlock;
  Pages pages(share * n_threads);
  std::memset(pages.address(), 1, share * n_threads);
  const cpu::Functions& functions = cpu::functions(cpu::available_instruction_sets().front());
  std::vector<float> sums(n_threads);
  double best = 0;
  for (int pass = 0; pass < kPasses; ++pass) {
    const auto started = std::chrono::steady_clock::now();
    std::vector<std::thread> threads;
    for (unsigned i = 0; i < n_threads; ++i) {
      const auto* first = reinterpret_cast<const float*>(pages.address() + i * share);
      threads.push_back(start_thread([&, first, i] { sums[i] = functions.sum(first, share / sizeof(float)); }));
    }
    for (std::thread& thread : threads) thread.join();
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - started;
    best = std::max(best, static_cast<double>(share * n_threads) / seconds.count());
  }
  return best;
}

}  // namespace moeflux
