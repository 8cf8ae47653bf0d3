// SPDX-License-Identifier: Apache-2.0
// Purpose: the loops over mask words and packed values, once per kernel set. All sets give the same results,
// bit for bit. Non-goals: checks of sizes (update.cpp makes them).
#pragma once

#include <cstdint>

namespace fedspallm {
enum class Isa;  // base/cpu_features.hpp; not included, because *.isa.cpp files keep std headers out
}

namespace fedspallm::wire {

/// What one pass over packed values finds out.
struct ValueScan {
  std::uint32_t largest_bits =
      0;                   // largest stored pattern without its sign: grows with |value|; NaN is above all
  std::int64_t zeros = 0;  // values that are +-0
};

/// Tables of three have one entry per DType, in its order: f32, f16, bf16.
struct Kernels {
  std::int64_t (*count_set_bits)(const std::uint64_t* words, std::int64_t count);
  ValueScan (*scan_values[3])(const unsigned char* values, std::int64_t count);
  /// `size` dense elements from a mask and `kept` packed values, as stored or widened to float; 0 where
  /// dropped.
  void (*unpack_stored[3])(const std::uint64_t* words, const unsigned char* values, std::int64_t kept,
                           unsigned char* destination, std::int64_t size);
  void (*unpack_floats[3])(const std::uint64_t* words, const unsigned char* values, std::int64_t kept,
                           unsigned char* destination, std::int64_t size);
};

/// @pre supported(isa)
[[nodiscard]] const Kernels& kernels_for(Isa isa);

}  // namespace fedspallm::wire
