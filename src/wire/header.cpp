// SPDX-License-Identifier: Apache-2.0
#include "header.hpp"

#include "fedspallm/base/error.hpp"
#include "fedspallm/base/hash.hpp"

#include <array>
#include <bit>
#include <concepts>

namespace fedspallm::wire {

namespace {

constexpr std::array<std::uint8_t, 4> kMagic = {'F', 'S', 'P', 'U'};
constexpr std::size_t kChecksumOffset = kHeaderBytes - 8;

/// Appends unsigned integers, least significant byte first.
class Writer {
 public:
  explicit Writer(std::span<std::byte, kHeaderBytes> bytes) : bytes_(bytes) {}
  template <std::unsigned_integral Word>
  void put(Word word) {
    for (std::size_t i = 0; i < sizeof(Word); ++i)
      bytes_[at_++] = static_cast<std::byte>((static_cast<std::uint64_t>(word) >> (8 * i)) & 0xffU);
  }
  void put(std::int64_t value) { put(static_cast<std::uint64_t>(value)); }
  void put(std::int32_t value) { put(static_cast<std::uint32_t>(value)); }
  void put(double value) { put(std::bit_cast<std::uint64_t>(value)); }
  void put(float value) { put(std::bit_cast<std::uint32_t>(value)); }

 private:
  std::span<std::byte, kHeaderBytes> bytes_;
  std::size_t at_ = 0;
};

/// The mirror image of Writer.
class Reader {
 public:
  explicit Reader(std::span<const std::byte, kHeaderBytes> bytes) : bytes_(bytes) {}
  template <std::unsigned_integral Word>
  [[nodiscard]] Word get() {
    std::uint64_t word = 0;
    for (std::size_t i = 0; i < sizeof(Word); ++i)
      word |= static_cast<std::uint64_t>(bytes_[at_++]) << (8 * i);
    return static_cast<Word>(word);
  }
  [[nodiscard]] std::int64_t get_i64() { return static_cast<std::int64_t>(get<std::uint64_t>()); }
  [[nodiscard]] std::int32_t get_i32() { return static_cast<std::int32_t>(get<std::uint32_t>()); }
  [[nodiscard]] double get_f64() { return std::bit_cast<double>(get<std::uint64_t>()); }
  [[nodiscard]] float get_f32() { return std::bit_cast<float>(get<std::uint32_t>()); }

 private:
  std::span<const std::byte, kHeaderBytes> bytes_;
  std::size_t at_ = 0;
};

}  // namespace

void write_header(const Header& header, std::span<std::byte, kHeaderBytes> bytes) {
  Writer writer(bytes);
  for (const std::uint8_t letter : kMagic) writer.put(letter);
  writer.put(kFormatVersion);
  writer.put(header.unit.round);
  writer.put(header.unit.block);
  writer.put(header.unit.matrix);
  writer.put(header.client);
  writer.put(header.rows);
  writer.put(header.cols);
  writer.put(header.kept);
  writer.put(header.dtype);
  writer.put(header.has_diagonal);
  writer.put(std::uint16_t{0});
  writer.put(header.report.damping_steps);
  writer.put(header.report.error);
  writer.put(header.report.seconds);
  writer.put(header.report.kept_zeros);
  writer.put(header.report.dead_columns);
  writer.put(header.report.damping);
  writer.put(std::uint32_t{0});
  writer.put(header.payload_bytes);
  writer.put(header.payload_checksum);
  writer.put(std::uint64_t{0});
  writer.put(checksum(bytes.first<kChecksumOffset>()));
}

Header read_header(std::span<const std::byte, kHeaderBytes> bytes, const char* who) {
  Reader reader(bytes);
  std::array<std::uint8_t, 4> magic{};
  for (std::uint8_t& letter : magic) letter = reader.get<std::uint8_t>();
  check<DataError>(
      magic == kMagic,
      fmt::format("{}: not an update: it starts with bytes {:02x} {:02x} {:02x} {:02x}, expected \"FSPU\"",
                  who, magic[0], magic[1], magic[2], magic[3]));
  const auto version = reader.get<std::uint32_t>();
  check<DataError>(
      version == kFormatVersion,
      fmt::format("{}: update of format version {}, expected {}: all ranks must run the same build", who,
                  version, kFormatVersion));
  Header header;
  header.unit.round = reader.get<std::uint32_t>();
  header.unit.block = reader.get<std::uint32_t>();
  header.unit.matrix = reader.get<std::uint32_t>();
  header.client = reader.get<std::uint32_t>();
  header.rows = reader.get_i64();
  header.cols = reader.get_i64();
  header.kept = reader.get_i64();
  header.dtype = reader.get<std::uint8_t>();
  header.has_diagonal = reader.get<std::uint8_t>();
  std::uint64_t reserved = reader.get<std::uint16_t>();
  header.report.damping_steps = reader.get_i32();
  header.report.error = reader.get_f64();
  header.report.seconds = reader.get_f64();
  header.report.kept_zeros = reader.get_i64();
  header.report.dead_columns = reader.get_i64();
  header.report.damping = reader.get_f32();
  reserved |= reader.get<std::uint32_t>();
  header.payload_bytes = reader.get<std::uint64_t>();
  header.payload_checksum = reader.get<std::uint64_t>();
  reserved |= reader.get<std::uint64_t>();
  const auto stored = reader.get<std::uint64_t>();
  const std::uint64_t computed = checksum(bytes.first<kChecksumOffset>());
  check<DataError>(
      stored == computed,
      fmt::format("{}: damaged update header: checksum {:016x}, expected {:016x}", who, computed, stored));
  check<DataError>(reserved == 0, fmt::format("{}: reserved header bytes are not zero", who));
  return header;
}

}  // namespace fedspallm::wire
