// Which range is read next, and what has become of each ticket. Reads nothing itself.
#pragma once
#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>

#include "read_pool.h"
#include "thread.h"

namespace moeflux {

// The state that tickets, pool and workers share, behind one lock. Outlives the pool as long as a ticket exists.
class ReadSchedule {
 public:
  struct Entry {
    std::shared_ptr<ReadTicket> ticket;
    std::size_t range;

    const ReadRange& get() const { return (*ticket->ranges_)[range]; }
    Buffer destination() const { return ticket->bytes_of(get()); }
    // What it goes through, if anything.
    std::optional<HostRecord> record() const {
      if (!ticket->record_) return std::nullopt;
      const auto& [bytes, filled] = *ticket->record_;
      return HostRecord{bytes.view(get().buffer_offset, get().nbytes), filled};
    }
  };

  // Throws DeviceError in a forked child, where the lock may be held for ever.
  void check_process() const { owner_.check("the read pool"); }

  void submit(const std::shared_ptr<ReadTicket>& ticket);
  // The next entry, or nothing when the pool closes. Blocks.
  std::optional<Entry> take();
  // Compares the checksum, if there is one, before the last entry of a ticket is finished; throws DeviceError, with the
  // entry unfinished, if the bytes cannot be had back from the device.
  void finish(const Entry& entry, ReadOutcome outcome);
  // Finishes an entry whose bytes did not get to the device.
  void fail(const Entry& entry, std::exception_ptr failure);
  void drain();
  // Cancels what is queued and refuses more; take() gives nothing from now on.
  void close();

  bool done(const ReadTicket& ticket);
  bool cancelled(const ReadTicket& ticket);
  double seconds(const ReadTicket& ticket);
  void wait(const ReadTicket& ticket, std::optional<double> timeout_seconds);
  void promote(const ReadTicket& ticket);
  bool cancel(ReadTicket& ticket);

 private:
  using Progress = ReadTicket::Progress;

  // Whether the ticket has all of its bytes with this entry, and a checksum. Called once per entry.
  bool is_to_be_verified(const Entry& entry, ReadOutcome outcome);

  // All of these need the lock.
  bool any_queued() const { return !urgent_.empty() || !normal_.empty(); }
  std::size_t drop_queued(ReadTicket& ticket, std::vector<Entry>& dropped);
  void settle(ReadTicket& ticket, std::size_t n_ranges);
  void throw_outcome(const ReadTicket& ticket) const;

  OwnerProcess owner_;
  std::mutex mutex_;
  std::condition_variable entry_queued_;
  std::condition_variable progressed_;
  std::deque<Entry> urgent_;
  std::deque<Entry> normal_;
  std::size_t n_running_ = 0;
  bool closed_ = false;
};

}  // namespace moeflux
