// CRC32C against the vectors of RFC 3720 appendix B.4 and a bit by bit computation.
#include "checksum.h"

#include <random>
#include <vector>

#include "check.h"

using namespace moeflux;

namespace {

using Bytes = std::vector<std::byte>;

std::uint32_t bit_by_bit(const Bytes& data) {
  std::uint32_t state = ~0u;
  for (const std::byte byte : data) {
    state ^= static_cast<std::uint32_t>(byte);
    for (int bit = 0; bit < 8; ++bit) state = (state >> 1) ^ (state & 1 ? 0x82F63B78u : 0u);
  }
  return ~state;
}

Bytes random_bytes(std::size_t nbytes) {
  std::mt19937 generator(static_cast<std::mt19937::result_type>(nbytes));
  Bytes data(nbytes);
  for (std::byte& byte : data) byte = static_cast<std::byte>(generator());
  return data;
}

Bytes bytes_counting(int first, int step) {
  Bytes data(32);
  for (std::size_t index = 0; index < data.size(); ++index) {
    data[index] = static_cast<std::byte>(first + step * static_cast<int>(index));
  }
  return data;
}

std::uint32_t whole(const Bytes& data) { return crc32c(data.data(), data.size()); }

}  // namespace

TEST(vectors_of_the_rfc) {
  CHECK_EQUAL(whole(Bytes(32)), 0x8A9136AAu);
  CHECK_EQUAL(whole(Bytes(32, std::byte{0xFF})), 0x62A8AB43u);
  CHECK_EQUAL(whole(bytes_counting(0, 1)), 0x46DD794Eu);
  CHECK_EQUAL(whole(bytes_counting(31, -1)), 0x113FDB5Cu);
}

TEST(nothing_has_checksum_zero) { CHECK_EQUAL(crc32c(nullptr, 0), 0u); }

TEST(every_length_agrees_with_the_bit_by_bit_checksum) {
  for (const std::size_t nbytes : {1, 2, 7, 8, 9, 15, 63, 64, 1000, 4096, 12287, 12288, 12289, 16384, 40000}) {
    const Bytes data = random_bytes(nbytes);
    const std::uint32_t expected = bit_by_bit(data);
    CHECK_EQUAL(whole(data), expected);
    CHECK_EQUAL(crc32c_by_table(data.data(), nbytes), expected);
  }
}

TEST(unaligned_data_has_the_same_checksum) {
  const Bytes data = random_bytes(30000);
  for (std::size_t first = 1; first < 8; ++first) {
    const Bytes copy(data.begin() + static_cast<std::ptrdiff_t>(first), data.end());
    CHECK_EQUAL(crc32c(data.data() + first, data.size() - first), bit_by_bit(copy));
  }
}

TEST(a_checksum_continues_that_of_the_bytes_before) {
  const Bytes data = random_bytes(30000);
  for (const std::size_t cut : {0, 1, 4095, 12288, 29999, 30000}) {
    const std::uint32_t before = crc32c(data.data(), cut);
    CHECK_EQUAL(crc32c(data.data() + cut, data.size() - cut, before), whole(data));
    CHECK_EQUAL(crc32c_by_table(data.data() + cut, data.size() - cut, before), whole(data));
  }
}

TEST_MAIN
