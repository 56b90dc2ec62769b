// The read pool: order, cancelling, closing, and what each fault of the disk becomes.
#include "read_pool.h"

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <filesystem>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "backends.h"
#include "check.h"
#include "checksum.h"
#include "error.h"
#include "read_faults.h"

using namespace moeflux;
using test::ReadCall;
using test::ReadFault;
using test::ReadFaults;
using test::TemporaryFile;

namespace {

constexpr std::size_t kFileNbytes = 300000;

struct Fixture {
  TemporaryFile temporary{kFileNbytes};
  std::shared_ptr<File> file = std::make_shared<File>(temporary.path(), false);
  Buffer buffer = open_device("cpu", {.n_threads = 1})->buffer(kFileNbytes, false);

  ReadRange range(std::uint64_t offset, std::uint64_t nbytes, std::uint64_t buffer_offset = 0) const {
    return {file, offset, nbytes, buffer_offset};
  }
  bool holds(std::size_t buffer_offset, std::size_t file_offset, std::size_t nbytes) const {
    for (std::size_t i = 0; i < nbytes; ++i) {
      if (buffer.address()[buffer_offset + i] != TemporaryFile::expected(file_offset + i)) return false;
    }
    return true;
  }
};

// Holds up every reading thread in pread() until opened, and notes the offsets in the order of their arrival.
struct ReadBarrier {
  std::mutex mutex;
  std::vector<off_t> offsets;
  std::atomic<bool> open{false};

  ReadFault operator()(const ReadCall& call) {
    {
      const std::lock_guard lock(mutex);
      offsets.push_back(call.offset);
    }
    while (!open) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    return {};
  }
  void wait_for_arrivals(std::size_t n_wanted) {
    for (;;) {
      {
        const std::lock_guard lock(mutex);
        if (offsets.size() >= n_wanted) return;
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
  }
};

test::ReadHook through(ReadBarrier& barrier) {
  return [&barrier](const ReadCall& call) { return barrier(call); };
}

}  // namespace

TEST(a_read_delivers_the_bytes_of_its_range) {
  const Fixture f;
  ReadPool pool(2);
  const auto ticket = pool.submit({f.range(12345, 100001)}, f.buffer, true);
  ticket->wait({});
  CHECK(ticket->done());
  CHECK(!ticket->cancelled());
  CHECK(ticket->seconds() > 0);
  CHECK_EQUAL(ticket->nbytes(), 100001u);
  CHECK(f.holds(0, 12345, 100001));
}

TEST(a_ticket_of_several_ranges_delivers_each_to_its_place) {
  const Fixture f;
  ReadPool pool(4);
  const auto ticket =
      pool.submit({f.range(7, 1000, 5000), f.range(200000, 33, 0), f.range(50000, 4096, 100000)}, f.buffer, true);
  ticket->wait({});
  CHECK_EQUAL(ticket->nbytes(), 5129u);
  CHECK(f.holds(5000, 7, 1000));
  CHECK(f.holds(0, 200000, 33));
  CHECK(f.holds(100000, 50000, 4096));
}

TEST(direct_reads_of_any_alignment_deliver_the_same_bytes) {
  const Fixture f;
  const auto direct = std::make_shared<File>(f.temporary.path(), true);
  ReadPool pool(2);
  for (const std::size_t offset : {0, 1, 4095, 4096, 8192, 100003}) {
    for (const std::size_t nbytes : {1, 511, 4096, 4097, 131072, 150001}) {
      for (const std::size_t buffer_offset : {0, 4096, 9}) {
        pool.submit({{direct, offset, nbytes, buffer_offset}}, f.buffer, true)->wait({});
        CHECK(f.holds(buffer_offset, offset, nbytes));
      }
    }
  }
  pool.submit({{direct, kFileNbytes - 10, 10, 0}}, f.buffer, true)->wait({});
  CHECK(f.holds(0, kFileNbytes - 10, 10));
}

TEST(direct_reads_beyond_the_end_come_short) {
  const Fixture f;
  const auto direct = std::make_shared<File>(f.temporary.path(), true);
  ReadPool pool(1);
  for (const std::size_t offset : {kFileNbytes - 10, kFileNbytes - 10000, kFileNbytes / 4096 * 4096}) {
    try {
      pool.submit({{direct, offset, 20000, 0}}, f.buffer, true)->wait({});
      CHECK(false);
    } catch (const ReadError& error) {
      CHECK_EQUAL(error.got, kFileNbytes - offset);
      CHECK_EQUAL(error.error_number, 0);
    }
  }
}

TEST(urgent_reads_come_first_and_otherwise_in_order) {
  const Fixture f;
  ReadBarrier barrier;
  const ReadFaults faults(through(barrier));
  ReadPool pool(1);
  pool.submit({f.range(1, 1)}, f.buffer, false);
  barrier.wait_for_arrivals(1);
  pool.submit({f.range(2, 1), f.range(3, 1)}, f.buffer, false);
  pool.submit({f.range(4, 1)}, f.buffer, true);
  pool.submit({f.range(5, 1), f.range(6, 1)}, f.buffer, true);
  barrier.open = true;
  pool.drain();
  CHECK((barrier.offsets == std::vector<off_t>{1, 4, 5, 6, 2, 3}));
}

TEST(a_promoted_read_overtakes_those_that_are_not_urgent) {
  const Fixture f;
  ReadBarrier barrier;
  const ReadFaults faults(through(barrier));
  ReadPool pool(1);
  pool.submit({f.range(1, 1)}, f.buffer, false);
  barrier.wait_for_arrivals(1);
  pool.submit({f.range(2, 1)}, f.buffer, false);
  const auto promoted = pool.submit({f.range(3, 1), f.range(4, 1)}, f.buffer, false);
  pool.submit({f.range(5, 1)}, f.buffer, true);
  promoted->promote();
  barrier.open = true;
  pool.drain();
  CHECK((barrier.offsets == std::vector<off_t>{1, 5, 3, 4, 2}));
  promoted->promote();  // harmless once done
}

TEST(workers_share_the_ranges_of_one_ticket) {
  const Fixture f;
  ReadBarrier barrier;
  const ReadFaults faults(through(barrier));
  ReadPool pool(3);
  const auto ticket = pool.submit({f.range(1, 1, 1), f.range(2, 1, 2), f.range(3, 1, 3)}, f.buffer, true);
  barrier.wait_for_arrivals(3);
  barrier.open = true;
  ticket->wait({});
}

TEST(cancel_drops_a_queued_read) {
  const Fixture f;
  ReadBarrier barrier;
  ReadFaults faults(through(barrier));
  ReadPool pool(1);
  const auto running = pool.submit({f.range(1, 1)}, f.buffer, true);
  barrier.wait_for_arrivals(1);
  const auto queued = pool.submit({f.range(2, 1)}, f.buffer, true);
  CHECK(!queued->done());
  CHECK(queued->cancel());
  CHECK(queued->done());
  CHECK(queued->cancelled());
  CHECK(queued->cancel());
  const std::string message = CHECK_THROWS(ReadCancelled, queued->wait({}));
  CHECK(message.find(f.temporary.path()) != std::string::npos);
  barrier.open = true;
  running->wait({});
  pool.drain();
  CHECK_EQUAL(faults.n_calls(), 1u);
}

TEST(cancel_lets_a_running_range_finish_before_the_ticket_is_done) {
  const Fixture f;
  ReadBarrier barrier;
  const ReadFaults faults(through(barrier));
  ReadPool pool(1);
  const auto ticket = pool.submit({f.range(1, 1), f.range(2, 1)}, f.buffer, true);
  barrier.wait_for_arrivals(1);
  CHECK(ticket->cancel());
  CHECK(!ticket->done());
  barrier.open = true;
  CHECK_THROWS(ReadCancelled, ticket->wait({}));
  CHECK(ticket->done());
}

TEST(cancel_of_a_read_whose_every_range_has_started_is_refused) {
  const Fixture f;
  ReadBarrier barrier;
  const ReadFaults faults(through(barrier));
  ReadPool pool(1);
  const auto ticket = pool.submit({f.range(1, 10)}, f.buffer, true);
  barrier.wait_for_arrivals(1);
  CHECK(!ticket->cancel());
  CHECK(!ticket->cancelled());
  barrier.open = true;
  ticket->wait({});
  CHECK(!ticket->cancel());
  CHECK(f.holds(0, 1, 10));
}

TEST(wait_times_out_and_the_read_still_arrives) {
  const Fixture f;
  ReadBarrier barrier;
  const ReadFaults faults(through(barrier));
  ReadPool pool(1);
  const auto ticket = pool.submit({f.range(77, 10)}, f.buffer, true);
  for (const double timeout : {0.02, 0.0, -1.0}) {
    try {
      ticket->wait(timeout);
      CHECK(false);
    } catch (const ReadTimeoutError& error) {
      CHECK_EQUAL(error.path, f.temporary.path());
      CHECK_EQUAL(error.offset, 77u);
      CHECK_EQUAL(error.wanted, 10u);
    }
  }
  CHECK_THROWS(DeviceError, ticket->seconds());
  barrier.open = true;
  ticket->wait(60.0);
  ticket->wait(1e300);
  CHECK(f.holds(0, 77, 10));
}

TEST(interrupted_calls_are_repeated) {
  const Fixture f;
  const ReadFaults faults([](const ReadCall& call) { return ReadFault{.error_number = call.number < 5 ? EINTR : 0}; });
  ReadPool pool(1);
  pool.submit({f.range(100, 1000)}, f.buffer, true)->wait({});
  CHECK_EQUAL(faults.n_calls(), 6u);
  CHECK(f.holds(0, 100, 1000));
}

TEST(short_reads_are_continued) {
  const Fixture f;
  const ReadFaults faults([](const ReadCall&) { return ReadFault{.limit = 100}; });
  ReadPool pool(1);
  pool.submit({f.range(100, 950)}, f.buffer, true)->wait({});
  CHECK_EQUAL(faults.n_calls(), 10u);
  CHECK(f.holds(0, 100, 950));
}

TEST(short_direct_reads_are_continued) {
  const Fixture f;
  const auto direct = std::make_shared<File>(f.temporary.path(), true);
  const ReadFaults faults(
      [](const ReadCall& call) { return ReadFault{.limit = call.number % 2 == 0 ? 8192u : SIZE_MAX}; });
  ReadPool pool(1);
  pool.submit({{direct, 4096, 200000, 0}}, f.buffer, true)->wait({});
  CHECK(faults.n_calls() > 1);
  CHECK(f.holds(0, 4096, 200000));
}

TEST(every_error_number_is_reported_with_file_offset_wanted_and_got) {
  const Fixture f;
  for (const int error_number : {EIO, EAGAIN, ENOMEM, EBADF}) {
    const ReadFaults faults([error_number](const ReadCall& call) {
      return call.number == 0 ? ReadFault{.limit = 600} : ReadFault{.error_number = error_number};
    });
    ReadPool pool(1);
    try {
      pool.submit({f.range(100, 1000)}, f.buffer, true)->wait({});
      CHECK(false);
    } catch (const ReadError& error) {
      CHECK_EQUAL(error.error_number, error_number);
      CHECK_EQUAL(error.path, f.temporary.path());
      CHECK_EQUAL(error.offset, 100u);
      CHECK_EQUAL(error.wanted, 1000u);
      CHECK_EQUAL(error.got, 600u);
      for (const char* part : {"600", "1000", "100", f.temporary.path().c_str()}) {
        CHECK(std::string(error.what()).find(part) != std::string::npos);
      }
    }
  }
}

TEST(a_file_that_was_shortened_gives_an_error_of_number_zero) {
  const Fixture f;
  std::filesystem::resize_file(f.temporary.path(), 1000);
  ReadPool pool(1);
  try {
    pool.submit({f.range(600, 1000)}, f.buffer, true)->wait({});
    CHECK(false);
  } catch (const ReadError& error) {
    CHECK_EQUAL(error.error_number, 0);
    CHECK_EQUAL(error.got, 400u);
  }
}

TEST(a_failed_range_cancels_its_siblings_but_no_other_ticket) {
  const Fixture f;
  ReadBarrier barrier;
  const ReadFaults faults([&barrier](const ReadCall& call) {
    barrier(call);
    return ReadFault{.error_number = call.offset == 1 ? EIO : 0};
  });
  ReadPool pool(1);
  const auto failing = pool.submit({f.range(1, 1), f.range(2, 1), f.range(3, 1)}, f.buffer, true);
  const auto other = pool.submit({f.range(4, 1)}, f.buffer, true);
  barrier.open = true;
  for (int repeat = 0; repeat < 2; ++repeat) CHECK_THROWS(ReadError, failing->wait({}));
  CHECK(failing->done());
  CHECK(failing->cancel());
  CHECK(!failing->cancelled());
  other->wait({});
  CHECK((barrier.offsets == std::vector<off_t>{1, 4}));
}

TEST(close_cancels_queued_reads_and_waits_for_running_ones) {
  const Fixture f;
  ReadBarrier barrier;
  const ReadFaults faults(through(barrier));
  ReadPool pool(1);
  const auto running = pool.submit({f.range(1, 1)}, f.buffer, true);
  barrier.wait_for_arrivals(1);
  const auto queued = pool.submit({f.range(2, 1), f.range(3, 1)}, f.buffer, false);
  std::vector<std::thread> closing;
  for (int i = 0; i < 2; ++i) closing.emplace_back([&pool] { pool.close(); });
  CHECK_THROWS(ReadCancelled, queued->wait({}));
  CHECK(!running->done());
  barrier.open = true;
  for (std::thread& thread : closing) thread.join();
  CHECK(running->done());
  running->wait({});
  pool.close();
  CHECK_THROWS(DeviceError, pool.submit({f.range(4, 1)}, f.buffer, true));
  pool.drain();
  CHECK_EQUAL(barrier.offsets.size(), 1u);
}

TEST(tickets_outlive_their_pool_and_keep_destination_and_file) {
  Fixture f;
  std::weak_ptr<Allocation> allocation = f.buffer.allocation;
  std::weak_ptr<File> file = f.file;
  std::shared_ptr<ReadTicket> ticket;
  {
    ReadPool pool(1);
    ticket = pool.submit({f.range(1, 100)}, f.buffer, true);
    f.buffer = Buffer{};
    f.file.reset();
    ticket->wait({});
  }
  CHECK(ticket->done());
  CHECK(!ticket->cancel());
  ticket->promote();
  ticket->wait({});
  CHECK(!allocation.expired() && !file.expired());
  ticket.reset();
  CHECK(allocation.expired() && file.expired());
}

TEST(a_ticket_that_nobody_holds_is_still_read) {
  const Fixture f;
  ReadPool pool(2);
  for (std::size_t i = 0; i < 100; ++i) pool.submit({f.range(i * 1000, 1000, i * 1000)}, f.buffer, i % 2 == 0);
  pool.drain();
  CHECK(f.holds(0, 0, 100000));
}

TEST(bad_requests_are_refused) {
  const Fixture f;
  ReadPool pool(1);
  CHECK_THROWS(std::invalid_argument, pool.submit(ReadRanges({}), f.buffer, true));
  CHECK_THROWS(std::invalid_argument, pool.submit({f.range(0, 0)}, f.buffer, true));
  CHECK_THROWS(std::invalid_argument, pool.submit({f.range(0, kFileNbytes + 1)}, f.buffer, true));
  CHECK_THROWS(std::invalid_argument, pool.submit({f.range(0, 1, kFileNbytes)}, f.buffer, true));
  CHECK_THROWS(std::invalid_argument, pool.submit({f.range(0, UINT64_MAX, 1)}, f.buffer, true));
  const Buffer mapped = open_device("cpu", {.n_threads = 1})->wrap(std::make_shared<Mapping>(f.temporary.path()));
  CHECK_THROWS(DeviceError, pool.submit({f.range(0, 1)}, mapped, true));
  CHECK_THROWS(std::invalid_argument, ReadPool(0));
}

TEST(a_checksum_is_compared_once_the_last_range_has_arrived) {
  const Fixture f;
  ReadPool pool(4);
  std::uint32_t checksum = 0;
  for (std::size_t i = 0; i < 40000; ++i) {
    const std::byte next = TemporaryFile::expected(i);
    checksum = crc32c(&next, 1, checksum);
  }
  const ReadRanges ranges{f.range(0, 10000, 50000), f.range(10000, 1, 0), f.range(10001, 29999, 1)};
  for (int repeat = 0; repeat < 50; ++repeat) {
    pool.submit(ranges, f.buffer, true, checksum)->wait({});
    const auto altered = pool.submit(ranges, f.buffer, true, checksum ^ 1);
    try {
      altered->wait({});
      CHECK(false);
    } catch (const ChecksumError& error) {
      CHECK_EQUAL(error.wanted_checksum, checksum ^ 1);
      CHECK_EQUAL(error.got_checksum, checksum);
    }
  }
}

TEST(cancels_promotions_and_reads_from_many_threads_leave_every_ticket_done) {
  const Fixture f;
  ReadPool pool(4);
  std::vector<std::thread> threads;
  std::atomic<int> n_delivered{0};
  for (std::size_t t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (std::size_t i = 0; i < 200; ++i) {
        const std::size_t place = t * 50000 + (i % 50) * 1000;
        const auto ticket =
            pool.submit({f.range(place, 500, place), f.range(place + 500, 500, place + 500)}, f.buffer, i % 3 == 0);
        if (i % 2 == 0) ticket->promote();
        const bool incomplete = i % 5 == 0 && ticket->cancel();
        try {
          ticket->wait({});
          CHECK(!incomplete);
          CHECK(f.holds(place, place, 1000));
          ++n_delivered;
        } catch (const ReadCancelled&) {
          CHECK(incomplete);
        }
        CHECK(ticket->done());
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(n_delivered >= 4 * 160);
}

TEST_MAIN
