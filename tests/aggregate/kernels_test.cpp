// SPDX-License-Identifier: Apache-2.0
// Every kernel set against plain definitions, bit for bit.
#include "aggregate/kernels.hpp"

#include "fedspallm/base/cpu_features.hpp"
#include "fedspallm/base/error.hpp"

#include <gtest/gtest.h>

#include "plain_merge.hpp"
#include "wire/random_matrix.hpp"
#include <bit>
#include <cmath>
#include <cstring>

namespace fedspallm::aggregate {
namespace {

constexpr DType kTypes[] = {DType::f32, DType::f16, DType::bf16};

class EveryKernelSet : public ::testing::TestWithParam<Isa> {
 protected:
  void SetUp() override {
    if (!supported(GetParam())) GTEST_SKIP() << "this CPU has no " << name_of(GetParam());
  }
  const Kernels& kernels() const { return kernels_for(GetParam()); }
};
INSTANTIATE_TEST_SUITE_P(Sets, EveryKernelSet, ::testing::Values(Isa::baseline, Isa::avx2, Isa::avx512),
                         [](const auto& set) { return std::string(name_of(set.param)); });

const unsigned char* bytes_of(const wire::PackedMatrix& matrix) {
  return reinterpret_cast<const unsigned char*>(matrix.values.data());
}

/// Adds to tiles that already hold something, so that "add" is told from "set".
std::vector<Tile> some_tiles(std::int64_t count) {
  std::vector<Tile> tiles(static_cast<std::size_t>(count));
  const RandomKey key{.seed = 5, .use = RandomUse::simulation};
  for (std::size_t t = 0; t < tiles.size(); ++t)
    for (std::size_t i = 0; i < 64; ++i) {
      tiles[t].sum[i] = static_cast<std::int64_t>(random_below(key, 64 * t + i, 1U << 30)) - (1 << 29);
      tiles[t].kept[i] = static_cast<std::uint32_t>(i % 3);
    }
  return tiles;
}

void expect_added(const std::vector<Tile>& before, const std::vector<Tile>& after,
                  const wire::PackedMatrix& matrix, int q) {
  std::vector<float> dense(static_cast<std::size_t>(matrix.size()));
  unpack(matrix, dense);
  for (std::size_t i = 0; i < 64 * after.size(); ++i) {
    const bool kept = ((matrix.bits[i / 64] >> (i % 64)) & 1U) != 0;
    const std::int64_t added = kept ? test::plain_quantize(dense[i], q) : 0;
    ASSERT_EQ(after[i / 64].sum[i % 64], before[i / 64].sum[i % 64] + added) << "weight " << i << " q " << q;
    ASSERT_EQ(after[i / 64].kept[i % 64], before[i / 64].kept[i % 64] + (kept ? 1U : 0U)) << "weight " << i;
  }
}

TEST_P(EveryKernelSet, AddsPackedValuesAsDefined) {
  for (const DType dtype : kTypes)
    for (const std::int64_t size : {1, 63, 64, 65, 127, 640, 1000})
      for (const double density : {0.0, 0.1, 0.5, 1.0})
        for (const int q : {-56, -40, -9, -3}) {  // from exact to coarse: rounding and halves on the way
          const wire::PackedMatrix matrix = test::random_packed(9, 1, size, density, dtype);
          const auto before = some_tiles(wire::mask_words(size));
          auto after = before;
          const Added added = kernels().add_packed[static_cast<int>(dtype)](
              matrix.bits.data(), std::ssize(after), bytes_of(matrix), matrix.kept, q, after.data());
          EXPECT_EQ(added.used, matrix.kept);
          const float largest = largest_magnitude(matrix);
          std::uint32_t largest_bits = 0;
          std::memcpy(&largest_bits, &largest, 4);
          EXPECT_EQ(added.largest_bits, largest_bits);
          expect_added(before, after, matrix, q);
        }
}

TEST_P(EveryKernelSet, AddsAnyFloatExactlyAsQuantizeDoes) {
  // All exponents, subnormals included, against scales that cover them or that they vanish in.
  const RandomKey key{.seed = 8, .use = RandomUse::simulation};
  for (const int q : {72, 30, 0, -30, -56, -100, -150, -182}) {
    std::vector<float> values(64 * 40);
    std::vector<std::uint8_t> kept(values.size(), 1);
    for (std::size_t i = 0; i < values.size(); ++i) {
      const std::uint64_t random = random_bits(key, i);
      const std::uint64_t exponents =
          static_cast<std::uint64_t>(std::clamp(q + 56 + 127, 1, 254));  // below 2^(q + 56)
      const auto bits =
          static_cast<std::uint32_t>((random & 0x807fffffU) | ((random >> 32) % exponents) << 23);
      std::memcpy(&values[i], &bits, 4);
    }
    const wire::PackedMatrix matrix = wire::pack(40, 64, DType::f32, values, kept);
    std::vector<Tile> tiles(40, Tile{});
    (void)kernels().add_packed[0](matrix.bits.data(), 40, bytes_of(matrix), matrix.kept, q, tiles.data());
    expect_added(std::vector<Tile>(40, Tile{}), tiles, matrix, q);
  }
}

TEST_P(EveryKernelSet, AddsTiles) {
  const auto from = some_tiles(7);
  auto into = some_tiles(7);
  kernels().add_tiles(from.data(), into.data(), 7);
  for (std::size_t t = 0; t < 7; ++t)
    for (std::size_t i = 0; i < 64; ++i) {
      ASSERT_EQ(into[t].sum[i], 2 * from[t].sum[i]);
      ASSERT_EQ(into[t].kept[i], 2 * from[t].kept[i]);
    }
}

struct AverageCase {
  std::int64_t sum;
  std::uint32_t kept;
};

void expect_averages(const Kernels& kernels, DType dtype, const std::vector<AverageCase>& cases, int q,
                     std::uint32_t clients, bool mean) {
  const auto tiles = static_cast<std::size_t>(wire::mask_words(std::ssize(cases)));
  std::vector<Tile> source(tiles, Tile{});
  for (std::size_t i = 0; i < cases.size(); ++i) {
    source[i / 64].sum[i % 64] = cases[i].sum;
    source[i / 64].kept[i % 64] = cases[i].kept;
  }
  std::vector<unsigned char> elements(tiles * 64 * size_of(dtype));
  std::vector<std::uint32_t> votes(tiles * 64);
  std::vector<std::uint64_t> stay(tiles), tied(tiles);
  const std::uint32_t level = clients / 3;
  const AverageRule rule{.q = q, .clients = clients, .divisor = mean ? clients : 0, .level = level};
  const std::uint32_t largest =
      kernels.average[static_cast<int>(dtype)](source.data(), static_cast<std::int64_t>(tiles), rule,
                                               {elements.data(), votes.data(), stay.data(), tied.data()});
  std::uint32_t most = 0;
  for (std::size_t i = 0; i < cases.size(); ++i) {
    std::uint32_t found = 0;
    std::memcpy(&found, elements.data() + i * size_of(dtype), size_of(dtype));
    const std::uint32_t divisor = mean ? clients : std::max(cases[i].kept, 1U);
    const std::uint32_t wanted = test::plain_nearest(dtype, cases[i].sum, q, divisor);
    ASSERT_EQ(found, wanted) << name_of(dtype) << " sum " << cases[i].sum << " kept " << cases[i].kept
                             << " q " << q;
    ASSERT_EQ(votes[i], clients - cases[i].kept);
    ASSERT_EQ((stay[i / 64] >> (i % 64)) & 1U, cases[i].kept > level ? 1U : 0U);
    ASSERT_EQ((tied[i / 64] >> (i % 64)) & 1U, level > 0 && cases[i].kept == level ? 1U : 0U);
    most = std::max(most, cases[i].kept);
  }
  EXPECT_EQ(largest, most);
}

TEST_P(EveryKernelSet, AveragesAreTheExactMeanRoundedOnce) {
  const RandomKey key{.seed = 6, .use = RandomUse::simulation};
  for (const DType dtype : kTypes)
    for (const std::uint32_t clients : {1U, 2U, 3U, 7U, 64U, 4095U, (1U << 24) - 1})
      for (const bool mean : {false, true}) {
        std::vector<AverageCase> cases;
        for (std::uint64_t i = 0; i < 3000; ++i) {
          const auto kept = static_cast<std::uint32_t>(random_below(key, 3 * i, clients + 1));
          const std::uint64_t bits = random_below(key, 3 * i + 1, 57);
          const auto magnitude = static_cast<std::int64_t>(random_bits(key, 3 * i + 2) >> (63 - bits));
          const std::int64_t limited = std::min(magnitude, std::int64_t{1} << 56);
          cases.push_back({kept == 0 ? 0 : (i % 2 == 0 ? limited : -limited), kept});
        }
        expect_averages(kernels(), dtype, cases, dtype == DType::f16 ? -50 : -54, clients, mean);
      }
}

TEST_P(EveryKernelSet, AveragesNextToMidpointsGoToTheRightSide) {
  // Sums one unit away from n * (midpoint between two elements): double rounding would lose the unit.
  const RandomKey key{.seed = 7, .use = RandomUse::simulation};
  for (const DType dtype : kTypes) {
    const int digits = dtype == DType::f32 ? 24 : (dtype == DType::f16 ? 11 : 8);
    for (const std::uint32_t clients : {1U, 3U, 5U, 64U, 65535U, (1U << 24) - 1}) {
      std::vector<AverageCase> cases;
      for (std::uint64_t i = 0; i < 2000; ++i) {
        const auto kept = static_cast<std::int64_t>(1 + random_below(key, 3 * i, clients));
        // midpoint = odd (digits + 1)-bit number times 2^up
        const auto odd =
            static_cast<std::int64_t>((std::uint64_t{1} << digits) + 1 +
                                      2 * random_below(key, 3 * i + 1, std::uint64_t{1} << (digits - 1)));
        const std::int64_t room =
            56 - (digits + 1) - static_cast<int>(std::ceil(std::log2(static_cast<double>(kept))));
        if (room < 0) continue;
        const auto up = static_cast<int>(random_below(key, 3 * i + 2, static_cast<std::uint64_t>(room) + 1));
        const std::int64_t sum = (odd * kept) << up;
        for (const std::int64_t off : {-1, 0, 1})
          for (const int sign : {-1, 1})
            cases.push_back({sign * (sum + off), static_cast<std::uint32_t>(kept)});
      }
      ASSERT_GT(cases.size(), 1000U);
      expect_averages(kernels(), dtype, cases, dtype == DType::f16 ? -50 : -54, clients, false);
    }
  }
}

TEST_P(EveryKernelSet, AveragesMayBeSubnormal) {
  const RandomKey key{.seed = 9, .use = RandomUse::simulation};
  for (const DType dtype : kTypes)
    for (const int q : {-180, -205, -60}) {
      std::vector<AverageCase> cases;
      for (std::uint64_t i = 0; i < 2000; ++i) {
        const std::uint64_t bits = random_below(key, 3 * i + 1, 57);
        const auto magnitude = static_cast<std::int64_t>(random_bits(key, 3 * i + 2) >> (63 - bits));
        const auto kept = static_cast<std::uint32_t>(1 + random_below(key, 3 * i, 9));
        cases.push_back({std::min(magnitude, std::int64_t{1} << 56), kept});
      }
      expect_averages(kernels(), dtype, cases, q, 9, false);
    }
}

TEST_P(EveryKernelSet, CompressesElementsUnderTheMask) {
  const RandomKey key{.seed = 10, .use = RandomUse::simulation};
  for (const std::int64_t bytes : {2, 4})
    for (const std::int64_t tiles : {1, 2, 9})
      for (const int density : {0, 1, 2, 4}) {
        std::vector<std::uint64_t> words(static_cast<std::size_t>(tiles));
        std::vector<unsigned char> elements(static_cast<std::size_t>(tiles * 64 * bytes)), wanted;
        for (std::size_t i = 0; i < elements.size(); ++i)
          elements[i] = static_cast<unsigned char>(random_bits(key, i));
        for (std::size_t t = 0; t < words.size(); ++t) {
          const std::uint64_t random = random_bits(key, 1000000 + t);
          words[t] = density == 0   ? 0
                     : density == 1 ? random & (random >> 7) & (random << 9)
                     : density == 2 ? random
                                    : ~std::uint64_t{0};
        }
        for (std::int64_t i = 0; i < tiles * 64; ++i)
          if (((words[static_cast<std::size_t>(i / 64)] >> (i % 64)) & 1U) != 0)
            wanted.insert(wanted.end(), elements.begin() + i * bytes, elements.begin() + (i + 1) * bytes);
        const auto compress = bytes == 2 ? kernels().compress2 : kernels().compress4;
        EXPECT_EQ(compress(words.data(), tiles, elements.data()), std::ssize(wanted) / bytes);
        for (std::size_t i = 0; i < wanted.size(); ++i) ASSERT_EQ(elements[i], wanted[i]) << "byte " << i;
      }
}

TEST_P(EveryKernelSet, CountsWeightsByTheClientsThatKeptThem) {
  const RandomKey key{.seed = 11, .use = RandomUse::simulation};
  for (const std::uint32_t clients : {1U, 2U, 8U, 12U, 13U, 64U, 1000U})
    for (const std::size_t tiles : {std::size_t{0}, std::size_t{1}, std::size_t{31}, std::size_t{70}}) {
      std::vector<Tile> source(tiles, Tile{});
      std::vector<std::int64_t> wanted(clients + 1, 5), found(wanted);  // added to what is there
      for (std::size_t i = 0; i < 64 * tiles; ++i) {
        const auto kept =
            static_cast<std::uint32_t>(random_below(key, i, clients + 2));  // one too many: left out
        source[i / 64].kept[i % 64] = kept;
        if (kept <= clients) ++wanted[kept];
      }
      kernels().count_kept(source.data(), static_cast<std::int64_t>(tiles), clients, found.data());
      EXPECT_EQ(found, wanted);
    }
}

TEST_P(EveryKernelSet, KeysAreSquaresTimesColumnWeightsOrMagnitudes) {
  for (const DType dtype : kTypes) {
    const test::DenseMatrix dense = test::random_dense(12, 64, 1, dtype);
    std::vector<unsigned char> elements(64 * size_of(dtype));
    narrow(dtype, dense.values.data(), elements.data(), 64);
    std::vector<double> weights(64);
    for (std::size_t i = 0; i < 64; ++i) weights[i] = i % 5 == 0 ? 0.0 : 1e15 * test::uniform(13, i);
    std::vector<std::uint64_t> scores(64), magnitudes(64);
    kernels().score_keys[static_cast<int>(dtype)](elements.data(), weights.data(), scores.data());
    kernels().magnitude_keys[static_cast<int>(dtype)](elements.data(), magnitudes.data());
    for (std::size_t i = 0; i < 64; ++i) {
      const double value = dense.values[i];
      EXPECT_EQ(std::bit_cast<double>(scores[i]), value * value * weights[i]);
      EXPECT_EQ(std::bit_cast<double>(magnitudes[i]), std::abs(value));
    }
  }
}

TEST_P(EveryKernelSet, ComparesKeysWithARange) {
  std::vector<std::uint64_t> keys(64);
  for (std::size_t i = 0; i < 64; ++i) keys[i] = (i * 37 % 64) << 52;
  constexpr std::uint64_t kLargest = ~std::uint64_t{0} >> 1;
  const std::pair<std::uint64_t, std::uint64_t> ranges[] = {
      {0, 0},
      {0, kLargest},
      {std::uint64_t{20} << 52, std::uint64_t{20} << 52},
      {(std::uint64_t{20} << 52) + 1, std::uint64_t{40} << 52},
      {kLargest, kLargest},
      {std::uint64_t{9} << 52, std::uint64_t{8} << 52}};
  for (const auto& [low, high] : ranges) {
    const KeyMasks masks = kernels().compare_keys(keys.data(), low, high);
    for (std::size_t i = 0; i < 64; ++i) {
      EXPECT_EQ((masks.below >> i) & 1U, keys[i] < low ? 1U : 0U);
      EXPECT_EQ((masks.inside >> i) & 1U, keys[i] >= low && keys[i] <= high ? 1U : 0U);
    }
  }
}

TEST(KernelSets, AnUnsupportedSetIsRefused) {
  for (const Isa isa : {Isa::baseline, Isa::avx2, Isa::avx512}) {
    if (supported(isa)) {
      EXPECT_NO_THROW((void)kernels_for(isa));
    } else {
      EXPECT_THROW((void)kernels_for(isa), LogicError);
    }
  }
}

}  // namespace
}  // namespace fedspallm::aggregate
