// Workers that read file ranges into buffers. Knows files and bytes, no experts and no layers.
#pragma once
#include <chrono>
#include <cstdint>
#include <exception>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "device.h"
#include "file.h"
#include "thread.h"

namespace moeflux {

struct ReadRange {
  std::shared_ptr<File> file;
  std::uint64_t offset;
  std::uint64_t nbytes;
  std::uint64_t buffer_offset;
};

// What is read together, one range after the other: made once, read any number of times.
class ReadRanges {
 public:
  // Throws std::invalid_argument for no ranges, or for one of no bytes.
  ReadRanges(std::vector<ReadRange> ranges);
  ReadRanges(std::initializer_list<ReadRange> ranges) : ReadRanges(std::vector(ranges)) {}

  std::size_t size() const { return ranges_.size(); }
  const ReadRange& operator[](std::size_t index) const { return ranges_[index]; }
  auto begin() const { return ranges_.begin(); }
  auto end() const { return ranges_.end(); }
  std::uint64_t nbytes() const { return nbytes_; }

 private:
  std::vector<ReadRange> ranges_;
  std::uint64_t nbytes_ = 0;
};

// Memory of the host, laid out as the destination of a read, that its bytes go through and stay in. Filled: it has them
// already, so that they are copied from there and nothing is read.
struct HostRecord {
  Buffer bytes;
  bool filled;
};

class ReadSchedule;
class ReadWorkers;

// One request of one or more ranges. Keeps files, destination and record until it is gone. Safe to use from any thread.
class ReadTicket {
 public:
  ReadTicket(std::shared_ptr<ReadSchedule> schedule, std::shared_ptr<const ReadRanges> ranges, Buffer destination,
             bool urgent, std::optional<std::uint32_t> checksum, std::optional<HostRecord> record);

  // No worker will touch the destination or the record any more.
  bool done() const;
  // Cancelled before every byte arrived.
  bool cancelled() const;
  std::uint64_t nbytes() const { return ranges_->nbytes(); }
  // From submit to done. Throws DeviceError before it is done.
  double seconds() const;
  // Blocks until done. Throws ReadError, ChecksumError, ReadCancelled, DeviceError if bytes did not get to the device,
  // or ReadTimeoutError after `timeout_seconds`.
  void wait(std::optional<double> timeout_seconds) const;
  // Makes the ranges that are still queued urgent.
  void promote();
  // Drops the ranges that have not started; true if some bytes will not be delivered.
  bool cancel();

 private:
  friend class ReadSchedule;
  enum class Progress : std::uint8_t { queued, running, finished, dropped };
  struct Failure {
    std::size_t range;
    ReadOutcome outcome;
  };

  // Where a range belongs.
  Buffer bytes_of(const ReadRange& range) const { return destination_.view(range.buffer_offset, range.nbytes); }
  // CRC32C of what the ranges delivered, one after the other. Throws DeviceError.
  std::uint32_t delivered_checksum() const;

  std::shared_ptr<ReadSchedule> schedule_;
  const std::shared_ptr<const ReadRanges> ranges_;
  const Buffer destination_;
  const std::optional<std::uint32_t> checksum_;
  const std::optional<HostRecord> record_;
  const std::chrono::steady_clock::time_point submitted_at_ = std::chrono::steady_clock::now();

  // Guarded by the schedule's mutex.
  std::vector<Progress> progress_;
  std::size_t n_unfinished_;
  std::size_t n_delivered_ = 0;  // of tickets with a checksum
  bool urgent_;
  bool cancelled_ = false;
  std::optional<Failure> failure_;  // the first
  std::optional<std::uint32_t> wrong_checksum_;
  std::exception_ptr device_failure_;  // the first
  std::chrono::steady_clock::time_point done_at_;
};

class ReadPool {
 public:
  explicit ReadPool(unsigned n_workers);
  // Closes.
  ~ReadPool();
  ReadPool(const ReadPool&) = delete;
  ReadPool& operator=(const ReadPool&) = delete;

  unsigned n_workers() const { return n_workers_; }
  // Each range is a queue entry of its own, so that workers share them. Urgent ones come first, otherwise in order.
  // `checksum`: CRC32C of the bytes of all ranges, one after the other; other bytes make the ticket fail.
  std::shared_ptr<ReadTicket> submit(std::shared_ptr<const ReadRanges> ranges, const Buffer& destination, bool urgent,
                                     std::optional<std::uint32_t> checksum = {}, std::optional<HostRecord> record = {});
  std::shared_ptr<ReadTicket> submit(ReadRanges ranges, const Buffer& destination, bool urgent,
                                     std::optional<std::uint32_t> checksum = {}, std::optional<HostRecord> record = {});
  // Blocks until no read is queued or running.
  void drain() const;
  // Cancels queued reads, waits for running ones, stops the workers. Idempotent.
  void close();

 private:
  unsigned n_workers_;
  std::shared_ptr<ReadSchedule> schedule_;
  ProcessOwned<ReadWorkers> workers_;
};

}  // namespace moeflux
