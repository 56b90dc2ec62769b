// A checksum is a polynomial over GF(2) modulo kPolynomial, with bit 31 as x^0 (reflected), and inverted before and
// after.
#include "checksum.h"

#include <array>
#include <cstring>

#if defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif

namespace moeflux {
namespace {

constexpr std::uint32_t kPolynomial = 0x82F63B78;
constexpr std::uint32_t kOne = 1u << 31;
constexpr std::size_t kWord = sizeof(std::uint64_t);

constexpr std::uint32_t times_x(std::uint32_t value) { return (value >> 1) ^ (value & 1 ? kPolynomial : 0); }

constexpr std::uint32_t multiply(std::uint32_t left, std::uint32_t right) {
  std::uint32_t product = 0;
  for (std::uint32_t power = kOne; power != 0; power >>= 1, right = times_x(right)) {
    if (left & power) product ^= right;
  }
  return product;
}

using Table = std::array<std::uint32_t, 256>;

// tables[k][b]: the remainder of byte b with k zero bytes behind it.
constexpr std::array<Table, kWord> make_byte_tables() {
  std::array<Table, kWord> tables{};
  for (std::uint32_t byte = 0; byte < 256; ++byte) {
    std::uint32_t remainder = byte;
    for (int bit = 0; bit < 8; ++bit) remainder = times_x(remainder);
    tables[0][byte] = remainder;
  }
  for (std::size_t k = 1; k < kWord; ++k) {
    for (std::uint32_t byte = 0; byte < 256; ++byte) {
      const std::uint32_t previous = tables[k - 1][byte];
      tables[k][byte] = (previous >> 8) ^ tables[0][previous & 0xFF];
    }
  }
  return tables;
}

constexpr std::array<Table, kWord> kByteTables = make_byte_tables();

std::uint64_t load_word(const std::byte* data) {
  std::uint64_t word;
  std::memcpy(&word, data, kWord);
  return word;
}

std::uint32_t table_step(std::uint32_t state, std::uint8_t byte) {
  return (state >> 8) ^ kByteTables[0][(state ^ byte) & 0xFF];
}

#if defined(__x86_64__)
#define MOEFLUX_HAS_CRC32C_INSTRUCTIONS
// Inline assembly, because intrinsics need the whole file compiled for processors that have them.
std::uint64_t word_step(std::uint64_t state, std::uint64_t word) {
  asm("crc32q %1, %0" : "+r"(state) : "rm"(word));
  return state;
}
std::uint32_t byte_step(std::uint32_t state, std::uint8_t byte) {
  asm("crc32b %1, %0" : "+r"(state) : "rm"(byte));
  return state;
}
#elif defined(__aarch64__)
#define MOEFLUX_HAS_CRC32C_INSTRUCTIONS
std::uint64_t word_step(std::uint64_t state, std::uint64_t word) {
  asm(".arch_extension crc\n\tcrc32cx %w0, %w0, %x1" : "+r"(state) : "r"(word));
  return state;
}
std::uint32_t byte_step(std::uint32_t state, std::uint8_t byte) {
  asm(".arch_extension crc\n\tcrc32cb %w0, %w0, %w1" : "+r"(state) : "r"(byte));
  return state;
}
#endif

#ifdef MOEFLUX_HAS_CRC32C_INSTRUCTIONS
// The instruction takes three cycles and one can start each cycle, so three lanes run at a time.
constexpr std::size_t kLane = 4096;

// tables[k][b]: byte b at bits 8k of a state, with a lane of zero bytes behind it.
constexpr std::array<Table, 4> make_lane_tables() {
  std::uint32_t lane = times_x(kOne);
  for (std::size_t power = 1; power < 8 * kLane; power *= 2) lane = multiply(lane, lane);
  std::array<Table, 4> tables{};
  for (std::size_t k = 0; k < tables.size(); ++k) {
    for (std::uint32_t byte = 0; byte < 256; ++byte) tables[k][byte] = multiply(byte << 8 * k, lane);
  }
  return tables;
}

constexpr std::array<Table, 4> kLaneTables = make_lane_tables();

std::uint64_t behind_lane(std::uint64_t state) {
  return kLaneTables[0][state & 0xFF] ^ kLaneTables[1][state >> 8 & 0xFF] ^ kLaneTables[2][state >> 16 & 0xFF] ^
         kLaneTables[3][state >> 24 & 0xFF];
}

std::uint32_t crc32c_by_instruction(const std::byte* data, std::size_t nbytes, std::uint32_t initial) {
  std::uint64_t state = static_cast<std::uint32_t>(~initial);
  for (; nbytes >= 3 * kLane; data += 3 * kLane, nbytes -= 3 * kLane) {
    std::uint64_t second = 0;
    std::uint64_t third = 0;
    for (std::size_t offset = 0; offset < kLane; offset += kWord) {
      state = word_step(state, load_word(data + offset));
      second = word_step(second, load_word(data + kLane + offset));
      third = word_step(third, load_word(data + 2 * kLane + offset));
    }
    state = behind_lane(behind_lane(state) ^ second) ^ third;
  }
  for (; nbytes >= kWord; data += kWord, nbytes -= kWord) state = word_step(state, load_word(data));
  auto rest = static_cast<std::uint32_t>(state);
  for (; nbytes > 0; ++data, --nbytes) rest = byte_step(rest, static_cast<std::uint8_t>(*data));
  return ~rest;
}

bool processor_has_instructions() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  return __builtin_cpu_supports("sse4.2");
#elif defined(__linux__)
  constexpr unsigned long kCrc32 = 1ul << 7;  // HWCAP_CRC32
  return (getauxval(AT_HWCAP) & kCrc32) != 0;
#else
  return true;  // every Apple arm64 processor has them
#endif
}
#endif

}  // namespace

std::uint32_t crc32c_by_table(const std::byte* data, std::size_t nbytes, std::uint32_t initial) {
  std::uint32_t state = ~initial;
  for (; nbytes >= kWord; data += kWord, nbytes -= kWord) {
    std::uint32_t next = 0;
    for (std::size_t index = 0; index < kWord; ++index) {
      const auto byte = static_cast<std::uint8_t>(data[index]);
      const auto before = index < 4 ? static_cast<std::uint8_t>(state >> 8 * index) : std::uint8_t{0};
      next ^= kByteTables[kWord - 1 - index][byte ^ before];
    }
    state = next;
  }
  for (; nbytes > 0; ++data, --nbytes) state = table_step(state, static_cast<std::uint8_t>(*data));
  return ~state;
}

#ifdef MOEFLUX_HAS_CRC32C_INSTRUCTIONS
bool has_crc32c_instructions() {
  static const bool available = processor_has_instructions();
  return available;
}

std::uint32_t crc32c(const std::byte* data, std::size_t nbytes, std::uint32_t initial) {
  return has_crc32c_instructions() ? crc32c_by_instruction(data, nbytes, initial)
                                   : crc32c_by_table(data, nbytes, initial);
}
#else
bool has_crc32c_instructions() { return false; }

std::uint32_t crc32c(const std::byte* data, std::size_t nbytes, std::uint32_t initial) {
  return crc32c_by_table(data, nbytes, initial);
}
#endif

}  // namespace moeflux
