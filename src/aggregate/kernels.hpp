// SPDX-License-Identifier: Apache-2.0
// Purpose: the loops over tiles, once per kernel set. All sets give the same results, bit for bit: what they
// compute is integers, or doubles of which every operation is exact or is one correctly rounded division.
// Non-goals: cutting work into panels, checks of shapes (partial_merge.cpp, finish.cpp). No std headers,
// because
// *.isa.cpp files include this one.
#pragma once

#include "fedspallm/aggregate/tile.hpp"

#include <cstdint>

namespace fedspallm {
enum class Isa;  // base/cpu_features.hpp
}

namespace fedspallm::aggregate {

/// What adding packed values finds out on the way.
struct Added {
  std::int64_t used = 0;           // values consumed
  std::uint32_t largest_bits = 0;  // pattern of the largest |value| as a float
};

/// How sums become elements. divisor 0 = divide by the number of clients that kept the weight.
struct AverageRule {
  int q = 0;
  std::uint32_t clients = 0;
  std::uint32_t divisor = 0;
};

/// Tables of three have one entry per DType, in its order: f32, f16, bf16.
struct Kernels {
  /// tiles[t] += the values under words[t], in multiples of 2^q. `available` values may be read from
  /// `values`.
  Added (*add_packed[3])(const std::uint64_t* words, std::int64_t tiles, const unsigned char* values,
                         std::int64_t available, int q, Tile* destination);
  void (*add_tiles)(const Tile* from, Tile* into, std::int64_t tiles);
  /// Dense elements (64 a tile), votes (64 a tile) and mask words (bit = somebody kept the weight) of `tiles`
  /// tiles. Returns the largest number of clients that kept one weight.
  std::uint32_t (*average[3])(const Tile* source, std::int64_t tiles, AverageRule rule,
                              unsigned char* elements, std::uint32_t* votes, std::uint64_t* words);
  /// Appends the elements under the set bits to `packed`, which has room for `room` elements; for 2 and 4
  /// bytes.
  void (*compress2)(const std::uint64_t* words, std::int64_t tiles, const unsigned char* elements,
                    unsigned char* packed, std::int64_t room);
  void (*compress4)(const std::uint64_t* words, std::int64_t tiles, const unsigned char* elements,
                    unsigned char* packed, std::int64_t room);
};

/// @pre supported(isa)
[[nodiscard]] const Kernels& kernels_for(Isa isa);

}  // namespace fedspallm::aggregate
