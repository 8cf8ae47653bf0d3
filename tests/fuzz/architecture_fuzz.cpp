// SPDX-License-Identifier: Apache-2.0
// config.json of a model: the input is its text.
#include "fedspallm/model/architecture.hpp"

#include "fuzz/fuzz.hpp"
#include <algorithm>
#include <cmath>

using namespace fedspallm;

namespace {

void check_accepted(const model::Architecture& architecture) {
  fuzz::promise(architecture.vocab_size > 0 && architecture.hidden_size > 0 && architecture.blocks > 0,
                "sizes");
  fuzz::promise(architecture.heads > 0 && architecture.heads % architecture.kv_heads == 0,
                "kv_heads divides heads");
  fuzz::promise(std::isfinite(architecture.norm_epsilon) && architecture.norm_epsilon > 0, "0 < epsilon");
  fuzz::promise(std::ssize(architecture.window) == architecture.blocks, "one window per block");
  for (const model::MatrixShape& matrix : architecture.matrices) {
    std::int64_t bits = 32;
    const bool overflow = __builtin_mul_overflow(bits, matrix.rows, &bits) ||
                          __builtin_mul_overflow(bits, matrix.cols, &bits) ||
                          __builtin_mul_overflow(bits, architecture.blocks, &bits);
    fuzz::promise(!overflow && bits > 0, "the model's size in bits is below 2^63");
  }
  if (architecture.rope.kind == model::RopeKind::none || architecture.head_dim > 4096) return;
  const model::RopeTables tables =
      model::rope_tables(architecture, std::min<std::int64_t>(3, architecture.max_positions));
  for (const std::vector<float>* table : {&tables.cosine, &tables.sine})
    for (const float value : *table) fuzz::promise(std::abs(value) <= 1, "sines and cosines are finite");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  model::Architecture architecture;
  const std::string text = fuzz::text_of({data, size});
  if (fuzz::accepts([&] { architecture = model::parse_architecture(text, "config.json"); }))
    check_accepted(architecture);
  return 0;
}
