// SPDX-License-Identifier: Apache-2.0
// Updates as a client sends them. First byte: which shape the root expects, and whether both checksums are
// set right.
#include "fedspallm/base/hash.hpp"
#include "fedspallm/wire/update.hpp"

#include "fuzz/fuzz.hpp"
#include <array>
#include <cmath>

using namespace fedspallm;

namespace {

/// Puts the checksums right: of the payload at 104, of the header at 120 (src/wire/header.hpp).
std::string with_right_checksums(std::string bytes) {
  if (bytes.size() < wire::kHeaderBytes) return bytes;
  fuzz::set_word(bytes, 104, checksum(fuzz::raw(bytes).subspan(wire::kHeaderBytes)));
  fuzz::set_word(bytes, 120, checksum(fuzz::raw(bytes).first(120)));
  return bytes;
}

wire::Expected expected_by(unsigned choice) {
  const std::array<wire::Expected, 4> all = {
      wire::Expected{.unit = {1, 2, 3}, .rows = 3, .cols = 5, .dtype = DType::f32, .with_diagonal = true},
      wire::Expected{.unit = {1, 2, 3}, .rows = 2, .cols = 32, .dtype = DType::bf16, .with_diagonal = false},
      wire::Expected{
          .unit = {1, 2, 3}, .rows = 13, .cols = 7, .dtype = DType::f16, .with_diagonal = true, .client = 4},
      wire::Expected{.unit = {}, .rows = 0, .cols = 0, .dtype = DType::f32, .with_diagonal = false}};
  return all[choice % all.size()];
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  fuzz::Source source({data, size});
  const unsigned choice = source.byte();
  const wire::Expected expected = expected_by(choice);
  std::string bytes = fuzz::text_of(source.rest());
  if ((choice & 0x80U) == 0) bytes = with_right_checksums(std::move(bytes));
  wire::MatrixUpdate update;
  if (!fuzz::accepts([&] { update = wire::decode(fuzz::raw(bytes), expected); })) return 0;
  const auto again = wire::encode(update);
  fuzz::promise(again.size() == bytes.size() && std::memcmp(again.data(), bytes.data(), again.size()) == 0,
                "an accepted update encodes to the same bytes");
  fuzz::promise(std::isfinite(wire::largest_magnitude(update.matrix)), "values are finite");
  std::vector<float> dense(static_cast<std::size_t>(update.matrix.size()));
  wire::unpack(update.matrix, dense);
  return 0;
}
