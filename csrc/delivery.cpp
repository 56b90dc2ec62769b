#include "delivery.h"

#include <algorithm>
#include <cstring>

#include "checksum.h"

namespace moeflux {
namespace {

// Drives read fast from this size on; a multiple of what direct reads need.
constexpr std::uint64_t kPieceNbytes = std::uint64_t{2} << 20;

}  // namespace

ReadOutcome deliver(const File& file, std::uint64_t offset, const Buffer& destination, StagingBlock& staging) {
  const std::unique_ptr<Transfer> transfer = destination.allocation->transfer();
  if (!transfer) return file.read(offset, {destination.address(), destination.nbytes}, staging);
  std::uint64_t filled = 0;
  while (filled < destination.nbytes) {
    std::span<std::byte> block = transfer->block();
    block = block.first(std::min<std::uint64_t>(block.size(), destination.nbytes - filled));
    const ReadOutcome outcome = file.read(offset + filled, block, staging);
    if (outcome.got > 0) transfer->send(destination.offset + filled, outcome.got);
    filled += outcome.got;
    if (outcome.got < block.size()) {
      transfer->finish();
      return {filled, outcome.error_number};
    }
  }
  transfer->finish();
  return {filled, 0};
}

ReadOutcome deliver_through(const Buffer& record, bool filled, const File& file, std::uint64_t offset,
                            const Buffer& destination, StagingBlock& staging) {
  const std::unique_ptr<Transfer> transfer = destination.allocation->transfer();
  ReadOutcome outcome{0, 0};
  while (outcome.got < destination.nbytes) {
    const std::uint64_t done = outcome.got;
    const std::span<std::byte> piece{record.address() + done, std::min(kPieceNbytes, destination.nbytes - done)};
    ReadOutcome read{piece.size(), 0};
    if (!filled) read = file.read(offset + done, piece, staging);
    outcome = {done + read.got, read.error_number};
    if (read.got < piece.size()) break;
    if (transfer) {
      transfer->send_from(piece, destination.offset + done);
    } else {
      std::memcpy(destination.address() + done, piece.data(), piece.size());
    }
  }
  if (transfer) transfer->finish();
  return outcome;
}

std::uint32_t checksum_of(const Buffer& bytes, std::uint32_t initial) {
  const std::unique_ptr<Transfer> transfer = bytes.allocation->transfer();
  if (!transfer) return crc32c(bytes.address(), bytes.nbytes, initial);
  std::uint32_t checksum = initial;
  for (std::size_t done = 0; done < bytes.nbytes;) {
    const std::span<const std::byte> fetched = transfer->fetch(bytes.offset + done, bytes.nbytes - done);
    checksum = crc32c(fetched.data(), fetched.size(), checksum);
    done += fetched.size();
  }
  return checksum;
}

}  // namespace moeflux
