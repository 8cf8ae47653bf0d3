// SPDX-License-Identifier: Apache-2.0
// encode_block and decode_block. Layout, little-endian: 48-byte header (magic "FSPB", u32 version, u32 round,
// u32 block, u32 matrices, u32 zero, u64 payload bytes, u64 xxh3 of the payload, u64 xxh3 of the header
// before it); then per matrix u32 length and bytes of the name, u8 pruned, u8 dtype, u16 zero, i32 N, i32 M,
// i64 rows, cols, kept, and if pruned the mask as ceil(size / 8) bytes and the values.
#include "fedspallm/base/error.hpp"
#include "fedspallm/base/hash.hpp"
#include "fedspallm/store/run_store.hpp"

#include "packed_checks.hpp"
#include <cstring>
#include <type_traits>

namespace fedspallm::store {

namespace {

constexpr std::uint32_t kMagic = 0x42505346;  // "FSPB"
constexpr std::size_t kHeader = 48;
constexpr std::size_t kHeaderChecked = 40;
constexpr std::size_t kLongestName = 4096;

template <class T>
void append(std::vector<std::byte>& out, T value) {
  static_assert(std::is_integral_v<T>);
  const auto* bytes = reinterpret_cast<const std::byte*>(&value);
  out.insert(out.end(), bytes, bytes + sizeof(T));
}

void append_bytes(std::vector<std::byte>& out, std::span<const std::byte> bytes) {
  out.insert(out.end(), bytes.begin(), bytes.end());
}

/// Takes values off the front; never beyond the end.
class Reader {
 public:
  explicit Reader(std::span<const std::byte> bytes) : rest_(bytes) {}
  [[nodiscard]] std::span<const std::byte> take(std::uint64_t count, const char* what) {
    check<DataError>(count <= rest_.size(),
                     fmt::format("encoded block: {} needs {} bytes, found {}", what, count, rest_.size()));
    const auto taken = rest_.first(static_cast<std::size_t>(count));
    rest_ = rest_.subspan(static_cast<std::size_t>(count));
    return taken;
  }
  template <class T>
  [[nodiscard]] T take(const char* what) {
    T value{};
    std::memcpy(&value, take(sizeof(T), what).data(), sizeof(T));
    return value;
  }
  [[nodiscard]] std::size_t left() const { return rest_.size(); }

 private:
  std::span<const std::byte> rest_;
};

void encode_matrix(std::vector<std::byte>& out, const MatrixRecord& record) {
  require(!record.name.empty() && record.name.size() <= kLongestName, "a matrix record has a tensor name");
  append(out, static_cast<std::uint32_t>(record.name.size()));
  append_bytes(out, std::as_bytes(std::span(record.name)));
  append(out, static_cast<std::uint8_t>(record.pruned ? 1 : 0));
  append(out, static_cast<std::uint8_t>(record.matrix.dtype));
  append(out, std::uint16_t{0});
  append(out, static_cast<std::int32_t>(record.keep));
  append(out, static_cast<std::int32_t>(record.group));
  append(out, record.matrix.rows);
  append(out, record.matrix.cols);
  append(out, record.matrix.kept);
  if (!record.pruned) return;
  const std::string fault = packing_fault(record.matrix);
  require(fault.empty(), fmt::format("{}: a packed matrix agrees with its counts: {}", record.name, fault));
  append_bytes(out, bytes_of_mask(record.matrix));
  append_bytes(out, record.matrix.values);
}

MatrixRecord decode_matrix(Reader& reader) {
  MatrixRecord record;
  const auto length = reader.take<std::uint32_t>("a name's length");
  check<DataError>(length > 0 && length <= kLongestName,
                   fmt::format("encoded block: name of {} bytes, expected 1 to {}", length, kLongestName));
  const auto name = reader.take(length, "a name");
  record.name.assign(reinterpret_cast<const char*>(name.data()), name.size());
  const std::string where = fmt::format("encoded block: {}", record.name);
  const auto pruned = reader.take<std::uint8_t>("a flag");
  const auto dtype = reader.take<std::uint8_t>("a dtype");
  check<DataError>(pruned <= 1 && dtype <= static_cast<std::uint8_t>(DType::bf16) &&
                       reader.take<std::uint16_t>("zero") == 0,
                   fmt::format("{}: flag {}, dtype {}, expected 0 or 1, 0 to 2", where, pruned, dtype));
  record.pruned = pruned == 1;
  record.matrix.dtype = static_cast<DType>(dtype);
  record.keep = reader.take<std::int32_t>("N");
  record.group = reader.take<std::int32_t>("M");
  record.matrix.rows = reader.take<std::int64_t>("rows");
  record.matrix.cols = reader.take<std::int64_t>("columns");
  record.matrix.kept = reader.take<std::int64_t>("kept");
  const std::int64_t size = checked_size(record.matrix.rows, record.matrix.cols, where);
  check<DataError>(record.matrix.kept >= 0 && record.matrix.kept <= size,
                   fmt::format("{}: {} weights kept of {}", where, record.matrix.kept, size));
  if (!record.pruned) return record;
  record.matrix.bits =
      words_of_mask(reader.take(static_cast<std::uint64_t>(mask_bytes(size)), "a mask"), size);
  const std::uint64_t width = size_of(record.matrix.dtype);
  const auto values = reader.take(static_cast<std::uint64_t>(record.matrix.kept) * width, "values");
  record.matrix.values.assign(values.begin(), values.end());
  const std::string fault = packing_fault(record.matrix);
  check<DataError>(fault.empty(), fmt::format("{}: {}", where, fault));
  return record;
}

}  // namespace

std::vector<std::byte> encode_block(const BlockRecord& record) {
  std::vector<std::byte> out(kHeader);
  for (const MatrixRecord& matrix : record.matrices) encode_matrix(out, matrix);
  const auto payload = std::span<const std::byte>(out).subspan(kHeader);
  std::vector<std::byte> header;
  append(header, kMagic);
  append(header, static_cast<std::uint32_t>(kFormatVersion));
  append(header, record.round);
  append(header, record.block);
  append(header, static_cast<std::uint32_t>(record.matrices.size()));
  append(header, std::uint32_t{0});
  append(header, static_cast<std::uint64_t>(payload.size()));
  append(header, checksum(payload));
  append(header, checksum(header));
  std::memcpy(out.data(), header.data(), kHeader);
  return out;
}

BlockRecord decode_block(std::span<const std::byte> bytes) {
  Reader reader(bytes);
  const auto header = Reader(bytes).take(kHeader, "the header");
  check<DataError>(reader.take<std::uint32_t>("magic") == kMagic,
                   "encoded block: magic differs, expected FSPB");
  const auto version = reader.take<std::uint32_t>("version");
  check<DataError>(version == static_cast<std::uint32_t>(kFormatVersion),
                   fmt::format("encoded block: format version {}, expected {}", version, kFormatVersion));
  BlockRecord record;
  record.round = reader.take<std::uint32_t>("round");
  record.block = reader.take<std::uint32_t>("block");
  const auto matrices = reader.take<std::uint32_t>("matrices");
  const auto zero = reader.take<std::uint32_t>("zero");
  const auto payload_bytes = reader.take<std::uint64_t>("payload bytes");
  const auto payload_checksum = reader.take<std::uint64_t>("payload checksum");
  check<DataError>(reader.take<std::uint64_t>("header checksum") == checksum(header.first(kHeaderChecked)),
                   "encoded block: the header's checksum differs: damaged on its way");
  check<DataError>(
      payload_bytes == reader.left(),
      fmt::format("encoded block: {} bytes of payload, expected {}", reader.left(), payload_bytes));
  check<DataError>(payload_checksum == checksum(bytes.subspan(kHeader)),
                   "encoded block: the payload's checksum differs: damaged on its way");
  check<DataError>(zero == 0, "encoded block: the header's reserved bytes are not zero");
  for (std::uint32_t i = 0; i < matrices; ++i) record.matrices.push_back(decode_matrix(reader));
  check<DataError>(reader.left() == 0,
                   fmt::format("encoded block: {} bytes behind its last matrix", reader.left()));
  return record;
}

}  // namespace fedspallm::store
