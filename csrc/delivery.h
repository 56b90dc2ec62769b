// Brings a range of a file into a buffer, whether the CPU can address it or not. Knows no queues and no tickets.
#pragma once
#include "device.h"
#include "file.h"

namespace moeflux {

// Fills `destination` from `offset` of the file on. Throws DeviceError if the bytes do not get to the device.
ReadOutcome deliver(const File& file, std::uint64_t offset, const Buffer& destination, StagingBlock& staging);

// Fills `record`, memory of the host that is as large as `destination`, from `offset` of the file on, unless it is
// `filled`, and copies it to the destination: each piece while the next is read. Throws DeviceError likewise.
ReadOutcome deliver_through(const Buffer& record, bool filled, const File& file, std::uint64_t offset,
                            const Buffer& destination, StagingBlock& staging);

// CRC32C of the buffer's bytes, or of bytes that follow those whose checksum is `initial`. Throws DeviceError.
std::uint32_t checksum_of(const Buffer& bytes, std::uint32_t initial);

}  // namespace moeflux
