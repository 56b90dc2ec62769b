#include "delivery.h"

#include <algorithm>

#include "checksum.h"

namespace moeflux {

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
