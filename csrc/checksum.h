// CRC32C (Castagnoli, RFC 3720 appendix B.4), by the processor's instructions where it has them.
#pragma once
#include <cstddef>
#include <cstdint>

namespace moeflux {

// The checksum of bytes that follow others whose checksum is `initial`; 0 where nothing precedes.
std::uint32_t crc32c(const std::byte* data, std::size_t nbytes, std::uint32_t initial = 0);

// The same by table lookups on any processor. `crc32c` chooses it where there are no instructions.
std::uint32_t crc32c_by_table(const std::byte* data, std::size_t nbytes, std::uint32_t initial = 0);

// Whether `crc32c` uses the processor's instructions.
bool has_crc32c_instructions();

}  // namespace moeflux
