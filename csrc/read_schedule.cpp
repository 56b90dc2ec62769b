#include "read_schedule.h"

#include <algorithm>

#include "error.h"

namespace moeflux {
namespace {

// Above this a timeout is no timeout; the clock's arithmetic would overflow.
constexpr double kLongestTimeoutSeconds = 1e8;

}  // namespace

void ReadSchedule::submit(const std::shared_ptr<ReadTicket>& ticket) {
  check_process();
  {
    const std::lock_guard lock(mutex_);
    if (closed_) throw DeviceError("the read pool is closed");
    for (std::size_t i = 0; i < ticket->ranges_->size(); ++i) {
      (ticket->urgent_ ? urgent_ : normal_).push_back(Entry{ticket, i});
    }
  }
  entry_queued_.notify_one();
}

std::optional<ReadSchedule::Entry> ReadSchedule::take() {
  std::unique_lock lock(mutex_);
  entry_queued_.wait(lock, [this] { return closed_ || any_queued(); });
  if (closed_) return std::nullopt;
  std::deque<Entry>& queue = urgent_.empty() ? normal_ : urgent_;
  Entry entry = std::move(queue.front());
  queue.pop_front();
  entry.ticket->progress_[entry.range] = Progress::running;
  ++n_running_;
  const bool more = any_queued();
  lock.unlock();
  // Workers wake each other, so that whoever submits waits for one of them to be woken at most.
  if (more) entry_queued_.notify_one();
  return entry;
}

void ReadSchedule::finish(const Entry& entry, ReadOutcome outcome) {
  // Without the lock, which all workers need; nobody else writes to a ticket's bytes any more.
  std::optional<std::uint32_t> checksum;
  if (is_to_be_verified(entry, outcome)) checksum = entry.ticket->delivered_checksum();
  std::vector<Entry> dropped;
  {
    const std::lock_guard lock(mutex_);
    ReadTicket& ticket = *entry.ticket;
    if (checksum && checksum != ticket.checksum_) ticket.wrong_checksum_ = checksum;
    ticket.progress_[entry.range] = Progress::finished;
    --n_running_;
    std::size_t n_settled = 1;
    if (outcome.got < entry.get().nbytes && !ticket.failure_) {
      ticket.failure_ = {entry.range, outcome};
      n_settled += drop_queued(ticket, dropped);
    }
    settle(ticket, n_settled);
  }
  progressed_.notify_all();
}

void ReadSchedule::fail(const Entry& entry, std::exception_ptr failure) {
  std::vector<Entry> dropped;
  {
    const std::lock_guard lock(mutex_);
    ReadTicket& ticket = *entry.ticket;
    ticket.progress_[entry.range] = Progress::finished;
    --n_running_;
    std::size_t n_settled = 1;
    if (!ticket.device_failure_) {
      ticket.device_failure_ = std::move(failure);
      n_settled += drop_queued(ticket, dropped);
    }
    settle(ticket, n_settled);
  }
  progressed_.notify_all();
}

bool ReadSchedule::is_to_be_verified(const Entry& entry, ReadOutcome outcome) {
  ReadTicket& ticket = *entry.ticket;
  if (!ticket.checksum_ || outcome.got < entry.get().nbytes) return false;
  // Counted here and not when entries are finished, so that of workers that end together exactly one is the last.
  const std::lock_guard lock(mutex_);
  return ++ticket.n_delivered_ == ticket.ranges_->size();
}

std::size_t ReadSchedule::drop_queued(ReadTicket& ticket, std::vector<Entry>& dropped) {
  const std::size_t n_before = dropped.size();
  for (std::deque<Entry>* queue : {&urgent_, &normal_}) {
    const auto first_dropped = std::stable_partition(
        queue->begin(), queue->end(), [&ticket](const Entry& entry) { return entry.ticket.get() != &ticket; });
    for (auto entry = first_dropped; entry != queue->end(); ++entry) {
      ticket.progress_[entry->range] = Progress::dropped;
      dropped.push_back(std::move(*entry));
    }
    queue->erase(first_dropped, queue->end());
  }
  return dropped.size() - n_before;
}

void ReadSchedule::settle(ReadTicket& ticket, std::size_t n_ranges) {
  ticket.n_unfinished_ -= n_ranges;
  if (ticket.n_unfinished_ == 0) ticket.done_at_ = std::chrono::steady_clock::now();
}

void ReadSchedule::drain() {
  check_process();
  std::unique_lock lock(mutex_);
  progressed_.wait(lock, [this] { return urgent_.empty() && normal_.empty() && n_running_ == 0; });
}

void ReadSchedule::close() {
  std::vector<Entry> dropped;
  {
    const std::lock_guard lock(mutex_);
    closed_ = true;
    while (!urgent_.empty() || !normal_.empty()) {
      const std::shared_ptr<ReadTicket> ticket = (urgent_.empty() ? normal_ : urgent_).front().ticket;
      ticket->cancelled_ = true;
      settle(*ticket, drop_queued(*ticket, dropped));
    }
  }
  entry_queued_.notify_all();
  progressed_.notify_all();
}

bool ReadSchedule::done(const ReadTicket& ticket) {
  check_process();
  const std::lock_guard lock(mutex_);
  return ticket.n_unfinished_ == 0;
}

bool ReadSchedule::cancelled(const ReadTicket& ticket) {
  check_process();
  const std::lock_guard lock(mutex_);
  return ticket.cancelled_;
}

double ReadSchedule::seconds(const ReadTicket& ticket) {
  check_process();
  const std::lock_guard lock(mutex_);
  if (ticket.n_unfinished_ > 0)
    throw DeviceError("seconds of a read of " + (*ticket.ranges_)[0].file->path() + ", which is not done");
  return std::chrono::duration<double>(ticket.done_at_ - ticket.submitted_at_).count();
}

void ReadSchedule::wait(const ReadTicket& ticket, std::optional<double> timeout_seconds) {
  check_process();
  const auto finished = [&ticket] { return ticket.n_unfinished_ == 0; };
  std::unique_lock lock(mutex_);
  if (!timeout_seconds || !(*timeout_seconds <= kLongestTimeoutSeconds)) {
    progressed_.wait(lock, finished);
  } else if (!progressed_.wait_for(lock, std::chrono::duration<double>(std::max(*timeout_seconds, 0.0)), finished)) {
    const auto missing = std::ranges::find_if(ticket.progress_, [](Progress progress) {
      return progress == Progress::queued || progress == Progress::running;
    });
    const ReadRange& range = (*ticket.ranges_)[static_cast<std::size_t>(missing - ticket.progress_.begin())];
    throw ReadTimeoutError(range.file->path(), range.offset, range.nbytes, *timeout_seconds);
  }
  throw_outcome(ticket);
}

void ReadSchedule::throw_outcome(const ReadTicket& ticket) const {
  if (ticket.device_failure_) std::rethrow_exception(ticket.device_failure_);
  if (ticket.failure_) {
    const auto& [index, outcome] = *ticket.failure_;
    const ReadRange& range = (*ticket.ranges_)[index];
    throw ReadError(range.file->path(), range.offset, range.nbytes, outcome.got, outcome.error_number);
  }
  if (ticket.wrong_checksum_) {
    const ReadRange& first = (*ticket.ranges_)[0];
    throw ChecksumError(first.file->path(), first.offset, ticket.nbytes(), *ticket.checksum_, *ticket.wrong_checksum_);
  }
  if (!ticket.cancelled_) return;
  const auto missing = std::ranges::find(ticket.progress_, Progress::dropped);
  const ReadRange& range = (*ticket.ranges_)[static_cast<std::size_t>(missing - ticket.progress_.begin())];
  throw ReadCancelled("the read of " + std::to_string(range.nbytes) + " bytes at offset " +
                      std::to_string(range.offset) + " of " + range.file->path() + " was cancelled");
}

void ReadSchedule::promote(const ReadTicket& ticket) {
  check_process();
  const std::lock_guard lock(mutex_);
  const auto promoted = std::stable_partition(normal_.begin(), normal_.end(),
                                              [&ticket](const Entry& entry) { return entry.ticket.get() != &ticket; });
  std::move(promoted, normal_.end(), std::back_inserter(urgent_));
  normal_.erase(promoted, normal_.end());
}

bool ReadSchedule::cancel(ReadTicket& ticket) {
  check_process();
  std::vector<Entry> dropped;
  bool incomplete = false;
  {
    const std::lock_guard lock(mutex_);
    const std::size_t n_dropped = drop_queued(ticket, dropped);
    if (n_dropped > 0) {
      ticket.cancelled_ = true;
      settle(ticket, n_dropped);
    }
    incomplete = ticket.cancelled_ || ticket.failure_ || ticket.wrong_checksum_ || ticket.device_failure_;
  }
  progressed_.notify_all();
  return incomplete;
}

}  // namespace moeflux
