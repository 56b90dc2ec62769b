// Reads through a record in the host's memory: what fills it, what is copied from it, and what calls nothing of the
// disk.
#include <cerrno>
#include <memory>
#include <vector>

#include "backends.h"
#include "check.h"
#include "error.h"
#include "read_faults.h"
#include "read_pool.h"

using namespace moeflux;
using test::ReadCall;
using test::ReadFault;
using test::ReadFaults;
using test::TemporaryFile;

namespace {

constexpr std::size_t kNbytes = 5000000;

struct Fixture {
  TemporaryFile temporary{kNbytes};
  std::shared_ptr<File> file = std::make_shared<File>(temporary.path(), false);
  std::shared_ptr<Device> device = open_device("cpu", {.n_threads = 1});
  Buffer slot = device->buffer(kNbytes, false);
  Buffer record = device->record_memory(kNbytes);

  // The whole file in pieces that workers share.
  std::vector<ReadRange> pieces() const {
    std::vector<ReadRange> ranges;
    for (std::uint64_t done = 0; done < kNbytes; done += kNbytes / 8) ranges.push_back({file, done, kNbytes / 8, done});
    return ranges;
  }
  static bool holds(const Buffer& buffer) {
    for (std::size_t i = 0; i < kNbytes; ++i) {
      if (buffer.address()[i] != TemporaryFile::expected(i)) return false;
    }
    return true;
  }
};

}  // namespace

TEST(workers_fill_the_record_and_the_destination) {
  const Fixture f;
  ReadPool pool(4);
  pool.submit(f.pieces(), f.slot, true, {}, HostRecord{f.record, false})->wait({});
  CHECK(f.holds(f.record));
  CHECK(f.holds(f.slot));
}

TEST(a_filled_record_is_copied_without_the_disk) {
  const Fixture f;
  ReadPool pool(4);
  pool.submit(f.pieces(), f.slot, true, {}, HostRecord{f.record, false})->wait({});
  const Buffer other = f.device->buffer(kNbytes, false);
  const ReadFaults faults([](const ReadCall&) { return ReadFault{.error_number = EIO}; });
  pool.submit(f.pieces(), other, true, {}, HostRecord{f.record, true})->wait({});
  CHECK(f.holds(other));
  CHECK_EQUAL(faults.n_calls(), 0u);
}

TEST(a_fault_of_the_disk_is_that_of_its_range) {
  const Fixture f;
  ReadPool pool(1);
  const ReadFaults faults(
      [](const ReadCall& call) { return call.number == 0 ? ReadFault{.limit = 600} : ReadFault{.error_number = EIO}; });
  const auto ticket = pool.submit({{f.file, 100, 4000000, 7}}, f.slot, true, {}, HostRecord{f.record, false});
  try {
    ticket->wait({});
    CHECK(false);
  } catch (const ReadError& error) {
    CHECK_EQUAL(error.offset, 100u);
    CHECK_EQUAL(error.wanted, 4000000u);
    CHECK_EQUAL(error.got, 600u);
    CHECK_EQUAL(error.error_number, EIO);
  }
}

TEST(records_of_many_tickets_do_not_mix) {
  const Fixture f;
  ReadPool pool(4);
  std::vector<Buffer> records, slots;
  std::vector<std::shared_ptr<ReadTicket>> tickets;
  for (std::size_t i = 0; i < 16; ++i) {
    records.push_back(f.record.view(i * 4096, 4096));
    slots.push_back(f.slot.view(i * 4096, 4096));
    tickets.push_back(
        pool.submit({{f.file, i * 5003, 4096, 0}}, slots[i], i % 2 == 0, {}, HostRecord{records[i], false}));
  }
  for (std::size_t i = 0; i < 16; ++i) {
    tickets[i]->wait({});
    for (std::size_t k = 0; k < 4096; ++k) {
      CHECK(slots[i].address()[k] == TemporaryFile::expected(i * 5003 + k));
      CHECK(records[i].address()[k] == slots[i].address()[k]);
    }
  }
}

TEST_MAIN
