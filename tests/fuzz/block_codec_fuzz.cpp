// SPDX-License-Identifier: Apache-2.0
// A merged block on its way to clients. First byte even: both checksums and the payload's length are set
// right.
#include "fedspallm/base/hash.hpp"
#include "fedspallm/store/run_store.hpp"

#include "fuzz/fuzz.hpp"

using namespace fedspallm;

namespace {

constexpr std::size_t kHeader = 48;  // src/store/block_codec.cpp

std::string with_right_header(std::string bytes) {
  if (bytes.size() < kHeader) return bytes;
  fuzz::set_word(bytes, 24, bytes.size() - kHeader);
  fuzz::set_word(bytes, 32, checksum(fuzz::raw(bytes).subspan(kHeader)));
  fuzz::set_word(bytes, 40, checksum(fuzz::raw(bytes).first(40)));
  return bytes;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  fuzz::Source source({data, size});
  const bool put_right = source.byte() % 2 == 0;
  std::string bytes = fuzz::text_of(source.rest());
  if (put_right) bytes = with_right_header(std::move(bytes));
  store::BlockRecord block;
  if (!fuzz::accepts([&] { block = store::decode_block(fuzz::raw(bytes)); })) return 0;
  const auto again = store::encode_block(block);
  fuzz::promise(again.size() == bytes.size() && std::memcmp(again.data(), bytes.data(), again.size()) == 0,
                "an accepted block encodes to the same bytes");
  for (const store::MatrixRecord& record : block.matrices) {
    if (!record.pruned) continue;
    std::vector<std::byte> dense(static_cast<std::size_t>(record.matrix.size()) *
                                 size_of(record.matrix.dtype));
    wire::unpack_stored(record.matrix, dense);
  }
  return 0;
}
