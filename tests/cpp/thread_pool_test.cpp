// The thread pool: coverage, shares, exceptions, nesting, scratch memory.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <mutex>
#include <numeric>
#include <stdexcept>
#include <thread>
#include <vector>

#include "check.h"
#include "cpu/thread_pool.h"

using moeflux::cpu::ThreadPool;

namespace {

constexpr unsigned kThreadCounts[] = {1, 2, 3, 5, 8};

// How often each item was visited, counted without a lock: two visits at once are a data race for the sanitizer.
std::vector<int> visits(ThreadPool& pool, std::size_t n_items, std::size_t grain) {
  std::vector<int> counts(n_items, 0);
  pool.parallel_for(n_items, grain, [&](std::size_t begin, std::size_t end) {
    for (std::size_t i = begin; i < end; ++i) ++counts[i];
  });
  return counts;
}

}  // namespace

TEST(each_item_is_visited_exactly_once) {
  for (const unsigned n_threads : kThreadCounts) {
    ThreadPool pool(n_threads);
    for (const std::size_t n_items : {0, 1, 2, 7, 64, 65, 1000, 4099}) {
      for (const std::size_t grain : {1, 3, 64, 5000}) {
        CHECK(std::ranges::all_of(visits(pool, n_items, grain), [](int count) { return count == 1; }));
      }
    }
  }
}

TEST(ranges_are_multiples_of_the_grain_save_the_last) {
  ThreadPool pool(4);
  constexpr std::size_t kItems = 1003;
  constexpr std::size_t kGrain = 8;
  std::mutex mutex;
  std::vector<std::pair<std::size_t, std::size_t>> ranges;
  pool.parallel_for(kItems, kGrain, [&](std::size_t begin, std::size_t end) {
    const std::lock_guard lock(mutex);
    ranges.emplace_back(begin, end);
  });
  CHECK(ranges.size() > 1);
  for (const auto& [begin, end] : ranges) {
    CHECK(begin % kGrain == 0);
    CHECK(end % kGrain == 0 || end == kItems);
  }
}

TEST(a_thread_runs_through_neighbouring_items) {
  ThreadPool pool(2);
  constexpr std::size_t kItems = 100;
  const std::thread::id caller = std::this_thread::get_id();
  std::vector<std::size_t> own, taken;  // by the caller: of its half, and of the worker's
  std::atomic<bool> caller_began{false};
  pool.parallel_for(kItems, 1, [&](std::size_t begin, std::size_t) {
    if (std::this_thread::get_id() == caller) {
      (begin < kItems / 2 ? own : taken).push_back(begin);
      caller_began = true;
    }
    while (!caller_began) std::this_thread::yield();
  });
  CHECK_EQUAL(own.front(), 0u);
  CHECK(std::ranges::is_sorted(own));
  CHECK(std::ranges::is_sorted(taken, std::ranges::greater{}));
}

TEST(others_take_what_a_slow_thread_has_left) {
  ThreadPool pool(2);
  constexpr std::size_t kItems = 100;
  const std::thread::id caller = std::this_thread::get_id();
  std::atomic<std::size_t> n_visited{0};
  std::size_t n_by_caller = 0;
  pool.parallel_for(kItems, 1, [&](std::size_t begin, std::size_t end) {
    if (std::this_thread::get_id() == caller) {
      n_by_caller += end - begin;
      while (n_visited != kItems - n_by_caller) std::this_thread::yield();
    }
    n_visited += end - begin;
  });
  CHECK_EQUAL(n_visited.load(), kItems);
  CHECK(n_by_caller < kItems / 2);
}

TEST(many_short_loops_in_a_row_lose_nothing) {
  for (const unsigned n_threads : kThreadCounts) {
    ThreadPool pool(n_threads);
    std::atomic<std::size_t> total{0};
    constexpr std::size_t kLoops = 5000;
    for (std::size_t loop = 0; loop < kLoops; ++loop) {
      pool.parallel_for(16, 1, [&](std::size_t begin, std::size_t end) { total += end - begin; });
    }
    CHECK_EQUAL(total.load(), 16 * kLoops);
  }
}

TEST(workers_that_fell_asleep_join_again) {
  ThreadPool pool(2);
  std::atomic<unsigned> n_inside{0};
  for (int loop = 0; loop < 5; ++loop) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
    n_inside = 0;
    // Ends only when two threads are inside at once.
    pool.parallel_for(2, 1, [&](std::size_t, std::size_t) {
      ++n_inside;
      while (n_inside < 2) std::this_thread::yield();
    });
    CHECK_EQUAL(n_inside.load(), 2u);
  }
}

TEST(writes_of_a_loop_are_seen_by_the_next) {
  ThreadPool pool(3);
  std::vector<std::uint64_t> values(777, 0);
  for (int loop = 0; loop < 200; ++loop) {
    pool.parallel_for(values.size(), 1, [&](std::size_t begin, std::size_t end) {
      for (std::size_t i = begin; i < end; ++i) values[i] += values[i] + 1 > 1u << 30 ? 0 : 1;
    });
  }
  CHECK_EQUAL(std::accumulate(values.begin(), values.end(), std::uint64_t{0}), 777u * 200u);
}

TEST(an_exception_in_a_body_reaches_the_caller) {
  for (const unsigned n_threads : kThreadCounts) {
    ThreadPool pool(n_threads);
    for (int repeat = 0; repeat < 50; ++repeat) {
      const std::string message =
          CHECK_THROWS(std::runtime_error, pool.parallel_for(100, 1, [](std::size_t begin, std::size_t end) {
            if (begin <= 57 && 57 < end) throw std::runtime_error("item 57");
          }));
      CHECK_EQUAL(message, "item 57");
    }
    CHECK(std::ranges::all_of(visits(pool, 100, 1), [](int count) { return count == 1; }));
  }
}

TEST(exceptions_in_every_body_reach_the_caller_as_one) {
  ThreadPool pool(8);
  for (int repeat = 0; repeat < 200; ++repeat) {
    CHECK_THROWS(std::runtime_error,
                 pool.parallel_for(64, 1, [](std::size_t, std::size_t) { throw std::runtime_error("every item"); }));
  }
}

TEST(a_nested_loop_covers_its_items) {
  ThreadPool pool(4);
  std::vector<std::atomic<int>> counts(32 * 32);
  pool.parallel_for(32, 1, [&](std::size_t outer_begin, std::size_t outer_end) {
    for (std::size_t outer = outer_begin; outer < outer_end; ++outer) {
      pool.parallel_for(32, 1, [&](std::size_t begin, std::size_t end) {
        for (std::size_t inner = begin; inner < end; ++inner) ++counts[outer * 32 + inner];
      });
    }
  });
  CHECK(std::ranges::all_of(counts, [](const std::atomic<int>& count) { return count == 1; }));
}

TEST(an_exception_in_a_nested_loop_reaches_the_caller) {
  ThreadPool pool(4);
  CHECK_THROWS(std::runtime_error, pool.parallel_for(32, 1, [&](std::size_t, std::size_t) {
    pool.parallel_for(8, 1, [](std::size_t, std::size_t) { throw std::runtime_error("inner"); });
  }));
  CHECK(std::ranges::all_of(visits(pool, 100, 1), [](int count) { return count == 1; }));
}

TEST(scratch_is_aligned_and_keeps_its_content_when_it_grows) {
  ThreadPool pool(2);
  std::byte* const small = pool.scratch(100);
  CHECK_EQUAL(reinterpret_cast<std::uintptr_t>(small) % 64, 0u);
  small[99] = std::byte{42};
  CHECK(pool.scratch(50) == small);
  std::byte* const large = pool.scratch(std::size_t{1} << 20);
  CHECK_EQUAL(reinterpret_cast<std::uintptr_t>(large) % 64, 0u);
  CHECK(large[99] == std::byte{42});
  small[0] = std::byte{1};  // valid until the kernel returns
  pool.release_outgrown_scratch();
  large[(std::size_t{1} << 20) - 1] = std::byte{1};
}

TEST(a_pool_that_never_ran_a_loop_stops) {
  for (const unsigned n_threads : kThreadCounts) ThreadPool pool(n_threads);
}

TEST_MAIN
