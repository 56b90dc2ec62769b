#include "read_pool.h"

#include <mutex>
#include <stdexcept>
#include <string>

#include "delivery.h"
#include "error.h"
#include "read_schedule.h"

namespace moeflux {

// The threads of a pool, joined when destroyed.
class ReadWorkers {
 public:
  ReadWorkers(ReadSchedule& schedule, unsigned n_workers) : schedule_(schedule) {
    try {
      for (unsigned i = 0; i < n_workers; ++i) threads_.push_back(start_thread([this] { work(); }));
    } catch (...) {
      close();
      throw;
    }
  }
  ~ReadWorkers() { close(); }
  ReadWorkers(const ReadWorkers&) = delete;
  ReadWorkers& operator=(const ReadWorkers&) = delete;

  void close() {
    schedule_.close();
    // Whoever comes second waits until the first has joined them.
    const std::lock_guard lock(join_mutex_);
    for (std::thread& thread : threads_) thread.join();
    threads_.clear();
  }

 private:
  static ReadOutcome deliver_entry(const ReadSchedule::Entry& entry, StagingBlock& staging) {
    const ReadRange& range = entry.get();
    if (const std::optional<HostRecord> record = entry.record()) {
      return deliver_through(record->bytes, record->filled, *range.file, range.offset, entry.destination(), staging);
    }
    return deliver(*range.file, range.offset, entry.destination(), staging);
  }

  void work() {
    StagingBlock staging;
    while (const std::optional<ReadSchedule::Entry> entry = schedule_.take()) {
      try {
        schedule_.finish(*entry, deliver_entry(*entry, staging));
      } catch (const DeviceError&) {
        schedule_.fail(*entry, std::current_exception());
      }
    }
  }

  ReadSchedule& schedule_;
  std::mutex join_mutex_;
  std::vector<std::thread> threads_;
};

ReadRanges::ReadRanges(std::vector<ReadRange> ranges) : ranges_(std::move(ranges)) {
  if (ranges_.empty()) throw std::invalid_argument("a read needs at least one range");
  for (const ReadRange& range : ranges_) {
    if (range.nbytes == 0)
      throw std::invalid_argument("a read of " + range.file->path() + " needs at least 1 byte, got 0");
    nbytes_ += range.nbytes;
  }
}

ReadTicket::ReadTicket(std::shared_ptr<ReadSchedule> schedule, std::shared_ptr<const ReadRanges> ranges,
                       Buffer destination, bool urgent, std::optional<std::uint32_t> checksum,
                       std::optional<HostRecord> record)
    : schedule_(std::move(schedule)),
      ranges_(std::move(ranges)),
      destination_(std::move(destination)),
      checksum_(checksum),
      record_(std::move(record)),
      progress_(ranges_->size(), Progress::queued),
      n_unfinished_(ranges_->size()),
      urgent_(urgent) {}

std::uint32_t ReadTicket::delivered_checksum() const {
  std::uint32_t checksum = 0;
  for (const ReadRange& range : *ranges_) checksum = checksum_of(bytes_of(range), checksum);
  return checksum;
}

bool ReadTicket::done() const { return schedule_->done(*this); }
bool ReadTicket::cancelled() const { return schedule_->cancelled(*this); }
double ReadTicket::seconds() const { return schedule_->seconds(*this); }
void ReadTicket::wait(std::optional<double> timeout_seconds) const { schedule_->wait(*this, timeout_seconds); }
void ReadTicket::promote() { schedule_->promote(*this); }
bool ReadTicket::cancel() { return schedule_->cancel(*this); }

ReadPool::ReadPool(unsigned n_workers) : n_workers_(n_workers), schedule_(make_process_owned<ReadSchedule>()) {
  if (n_workers == 0) throw std::invalid_argument("a read pool needs at least 1 worker, got 0");
  workers_ = make_process_owned<ReadWorkers>(*schedule_, n_workers);
}

ReadPool::~ReadPool() = default;

std::shared_ptr<ReadTicket> ReadPool::submit(std::shared_ptr<const ReadRanges> ranges, const Buffer& destination,
                                             bool urgent, std::optional<std::uint32_t> checksum,
                                             std::optional<HostRecord> record) {
  for (const ReadRange& range : *ranges) {
    destination.view(range.buffer_offset, range.nbytes);
    if (record) record->bytes.view(range.buffer_offset, range.nbytes);
  }
  if (!destination.allocation->writable()) {
    throw DeviceError("reads cannot write to a mapped file");
  }
  if (record && !record->bytes.allocation->host()) {
    throw DeviceError("a record that reads go through must be memory of the host");
  }
  auto ticket =
      std::make_shared<ReadTicket>(schedule_, std::move(ranges), destination, urgent, checksum, std::move(record));
  schedule_->submit(ticket);
  return ticket;
}

std::shared_ptr<ReadTicket> ReadPool::submit(ReadRanges ranges, const Buffer& destination, bool urgent,
                                             std::optional<std::uint32_t> checksum, std::optional<HostRecord> record) {
  return submit(std::make_shared<const ReadRanges>(std::move(ranges)), destination, urgent, checksum,
                std::move(record));
}

void ReadPool::drain() const { schedule_->drain(); }

void ReadPool::close() {
  schedule_->check_process();
  workers_->close();
}

}  // namespace moeflux
