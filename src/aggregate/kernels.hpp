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

/// How sums become elements and masks. divisor 0 = divide by the number of clients that kept the weight.
struct AverageRule {
  int q = 0;
  std::uint32_t clients = 0;
  std::uint32_t divisor = 0;
  std::uint32_t level = 0;  // weights kept by more clients stay; those kept by exactly so many are tied
};

/// Where average() writes: dense elements and votes (64 a tile), a mask word of each kind a tile.
struct Averages {
  unsigned char* elements;
  std::uint32_t* votes;
  std::uint64_t* stay;
  std::uint64_t* tied;  // none at level 0
};

/// Where the keys of a tile lie.
struct KeyMasks {
  std::uint64_t below = 0;   // bit i = key i < low
  std::uint64_t inside = 0;  // bit i = low <= key i <= high
};

/// Tables of three have one entry per DType, in its order: f32, f16, bf16.
struct Kernels {
  /// tiles[t] += the values under words[t], in multiples of 2^q. `available` values may be read from
  /// `values`.
  Added (*add_packed[3])(const std::uint64_t* words, std::int64_t tiles, const unsigned char* values,
                         std::int64_t available, int q, Tile* destination);
  void (*add_tiles)(const Tile* from, Tile* into, std::int64_t tiles);
  /// histogram[k] += number of weights that k clients kept; larger counts are left out. @pre clients + 1 bins
  void (*count_kept)(const Tile* source, std::int64_t tiles, std::uint32_t clients, std::int64_t* histogram);
  /// Returns the largest number of clients that kept one weight.
  std::uint32_t (*average[3])(const Tile* source, std::int64_t tiles, AverageRule rule, Averages out);
  /// Keys of the 64 weights of a tile, patterns of doubles >= 0: value^2 times its column's weight, or
  /// |value|.
  void (*score_keys[3])(const unsigned char* elements, const double* column_weights, std::uint64_t* keys);
  void (*magnitude_keys[3])(const unsigned char* elements, std::uint64_t* keys);
  /// @pre low, high and all keys < 2^63
  KeyMasks (*compare_keys)(const std::uint64_t* keys, std::uint64_t low, std::uint64_t high);
  /// Moves the elements under the set bits to the front, in place; for 2 and 4 bytes. Returns their number.
  std::int64_t (*compress2)(const std::uint64_t* words, std::int64_t tiles, unsigned char* elements);
  std::int64_t (*compress4)(const std::uint64_t* words, std::int64_t tiles, unsigned char* elements);
};

/// @pre supported(isa)
[[nodiscard]] const Kernels& kernels_for(Isa isa);

}  // namespace fedspallm::aggregate
