// SPDX-License-Identifier: Apache-2.0
// Merges that are finished on a device: the bits of aggregate::finish() for the same sums. The same file runs
// on the CPU backends, on the emulated GPU and on a real one.
#include "fedspallm/aggregate/merge.hpp"
#include "fedspallm/base/counts.hpp"
#include "fedspallm/base/error.hpp"

#include <gtest/gtest.h>

#include "support/backends.hpp"
#include "support/update_cases.hpp"
#include <algorithm>
#include <array>
#include <span>

namespace fedspallm::backend {
namespace {

using aggregate::MergeRules;
using aggregate::TieRule;
using test::UpdateCase;

constexpr TieRule kTies[] = {TieRule::score, TieRule::magnitude, TieRule::index};

/// A merge on the host, and what finishing it needs beside.
struct Merge {
  aggregate::PartialMerge sums;
  std::int64_t clients;
  std::vector<std::int64_t> diagonal;
  DType dtype;
};

std::vector<std::int64_t> some_diagonal(std::int64_t cols) {
  std::vector<std::int64_t> diagonal;
  for (std::int64_t column = 0; column < cols; ++column) diagonal.push_back((column * 7919) % 13 << 40);
  return diagonal;
}

Merge merge_of(const UpdateCase& item, std::uint32_t clients) {
  Merge merge{{item.rows, item.cols, aggregate::FixedPoint::covering(2048, clients), {}},
              clients,
              some_diagonal(item.cols),
              item.dtype};
  for (std::uint32_t client = 0; client < clients; ++client)
    merge.sums.add(test::packed_matrix(item, client));
  return merge;
}

/// Sums and counts at random, as large as they may be: most sums have more bits than a double.
Merge random_sums(std::int64_t rows, std::int64_t cols, std::int64_t clients, DType dtype) {
  Merge merge{
      {rows, cols, aggregate::FixedPoint::covering(3, clients), {}}, clients, some_diagonal(cols), dtype};
  const RandomKey key{.seed = 5, .use = RandomUse::simulation};
  for (std::int64_t index = 0; index < rows * cols; ++index) {
    aggregate::Tile& tile = merge.sums.tiles()[static_cast<std::size_t>(index / 64)];
    const std::uint64_t bits = random_bits(key, static_cast<std::uint64_t>(index));
    const auto kept = static_cast<std::uint32_t>(bits % (static_cast<std::uint64_t>(clients) + 1));
    const std::int64_t share = (std::int64_t{1} << 56) / clients * kept;
    tile.kept[index % 64] = kept;
    tile.sum[index % 64] = kept == 0 ? 0 : (static_cast<std::int64_t>(bits) >> 6) % share;
  }
  return merge;
}

class FinishedMerges : public testing::TestWithParam<std::string> {
 protected:
  [[nodiscard]] std::shared_ptr<std::byte> bring(std::span<const aggregate::Tile> tiles) {
    auto memory = ops_.allocate(std::max<std::int64_t>(1, static_cast<std::int64_t>(tiles.size_bytes())));
    ops_.write(std::as_bytes(tiles), memory.get());
    return memory;
  }
  [[nodiscard]] static UpdateOps::Finish in_numbers(const Merge& merge, const MergeRules& rules) {
    UpdateOps::Finish how{.rows = merge.sums.rows(),
                          .cols = merge.sums.cols(),
                          .dtype = merge.dtype,
                          .q = merge.sums.scale().q,
                          .clients = static_cast<std::uint32_t>(merge.clients),
                          .divide_by_all = rules.averaging == aggregate::Averaging::mean,
                          .tie = rules.tie == TieRule::score       ? UpdateOps::Tie::score
                                 : rules.tie == TieRule::magnitude ? UpdateOps::Tie::magnitude
                                                                   : UpdateOps::Tie::index,
                          .column_weights = merge.diagonal,
                          .keep = rules.expand ? rules.keep : 0,
                          .group = rules.expand ? rules.group : 0};
    if (rules.expand && rules.group == 0) how.target = exact_count(rules.sparsity, how.rows * how.cols);
    return how;
  }
  void expect_the_hosts_bits(const Merge& merge, const MergeRules& rules) {
    SCOPED_TRACE(testing::Message() << merge.sums.rows() << " x " << merge.sums.cols() << " "
                                    << name_of(merge.dtype) << ", " << merge.clients << " clients, tie "
                                    << static_cast<int>(rules.tie) << ", s " << rules.sparsity << ", "
                                    << rules.keep << ":" << rules.group);
    const aggregate::MergedMatrix wanted =
        aggregate::finish(merge.sums, merge.clients, rules, merge.dtype, merge.diagonal);
    const auto tiles = bring(merge.sums.tiles());
    const UpdateOps::Finished found = ops_.finish(in_numbers(merge, rules), tiles.get());
    EXPECT_EQ(found.kept, wanted.matrix.kept);
    EXPECT_TRUE(found.bits == wanted.matrix.bits);
    EXPECT_TRUE(found.values == wanted.matrix.values);
    EXPECT_TRUE(found.votes == wanted.votes);
    EXPECT_EQ(std::vector(found.kept_by.rbegin(), found.kept_by.rend()), wanted.histogram);
    EXPECT_EQ(found.kept_zeros, wanted.kept_zeros);
    EXPECT_EQ(found.expanded, wanted.expanded);
    EXPECT_EQ(found.above_target, wanted.above_target);
  }
  std::unique_ptr<Backend> backend_ = test::make_backend(GetParam());
  UpdateOps& ops_ = backend_->updates();
};

TEST_P(FinishedMerges, have_the_hosts_bits_for_every_size_and_type) {
  std::size_t turn = 0;
  for (const UpdateCase& item : test::update_cases()) {
    const Merge merge = merge_of(item, turn % 2 == 0 ? 3 : 1);
    const TieRule tie = kTies[turn % 3];
    const double sparsity = std::array{0.5, 0.6, 0.75, 0.9, 0.3}[turn % 5];
    expect_the_hosts_bits(merge, {.tie = tie, .sparsity = sparsity});
    if (++turn % 4 == 0) expect_the_hosts_bits(merge, {.averaging = aggregate::Averaging::mean, .tie = tie});
    if (turn % 4 == 2) expect_the_hosts_bits(merge, {.expand = false, .tie = tie});
  }
}

TEST_P(FinishedMerges, are_exact_where_sums_have_more_bits_than_a_double) {
  for (const DType dtype : {DType::f32, DType::f16, DType::bf16})
    for (const TieRule tie : kTies)
      expect_the_hosts_bits(random_sums(70, 90, 6, dtype), {.tie = tie, .sparsity = 0.55});
}

TEST_P(FinishedMerges, drop_by_groups) {
  const std::pair<int, int> patterns[] = {{2, 4}, {4, 8}, {4, 4}, {1, 3}, {7, 40}};
  for (const auto& [keep, group] : patterns)
    for (const TieRule tie : kTies) {
      const std::int64_t cols = group * (120 / group);
      expect_the_hosts_bits(merge_of({37, cols, DType::bf16, 80}, 4),
                            {.tie = tie, .keep = keep, .group = group});
      expect_the_hosts_bits(merge_of({1, group, DType::f32, 100}, 2),
                            {.tie = tie, .keep = keep, .group = group});
    }
}

TEST_P(FinishedMerges, settle_equal_keys_by_index) {
  const std::int64_t rows = 130, cols = 96;  // three units and a bit
  std::vector<float> values(static_cast<std::size_t>(rows * cols), -0.75F);
  const std::vector<std::uint8_t> kept(values.size(), 1);
  for (const bool one_odd : {false, true}) {
    if (one_odd) values[5000] = 0.5F;
    Merge merge{{rows, cols, aggregate::FixedPoint::covering(1, 2), {}},
                2,
                std::vector<std::int64_t>(static_cast<std::size_t>(cols), 3),
                DType::bf16};
    for (int client = 0; client < 2; ++client)
      merge.sums.add(wire::pack(rows, cols, DType::bf16, values, kept));
    for (const TieRule tie : kTies)
      for (const double sparsity : {1e-4, 0.25, 0.6, 0.9999})
        expect_the_hosts_bits(merge, {.tie = tie, .sparsity = sparsity});
    expect_the_hosts_bits(merge, {.tie = TieRule::magnitude, .keep = 3, .group = 8});
  }
}

TEST_P(FinishedMerges, reach_the_ends) {
  const Merge merge = merge_of({33, 127, DType::f16, 30}, 2);
  for (const double sparsity : {0.0, 1.0}) expect_the_hosts_bits(merge, {.sparsity = sparsity});
  // More weights than the target were kept by nobody: nothing is dropped, and it is said.
  expect_the_hosts_bits(merge, {.tie = TieRule::magnitude, .sparsity = 0.25});
  expect_the_hosts_bits(merge_of({40, 30, DType::f32, 30}, 2),
                        {.tie = TieRule::index, .keep = 5, .group = 6});
  for (const auto& [rows, cols] : {std::pair<std::int64_t, std::int64_t>{0, 4}, {4, 0}})
    expect_the_hosts_bits(Merge{{rows, cols, {}, {}}, 2, some_diagonal(cols), DType::bf16}, {});
}

/// Votes in one, two and four bytes; a histogram that fits shared memory and one that does not.
TEST_P(FinishedMerges, count_the_votes_of_many_clients) {
  for (const std::int64_t clients : {255, 256, 2046, 2047, 65535, 65536}) {
    const Merge merge = random_sums(20, 100, clients, DType::bf16);
    expect_the_hosts_bits(merge, {.sparsity = 0.5});
    if (clients == 256) expect_the_hosts_bits(merge, {.keep = 2, .group = 4});
  }
}

TEST_P(FinishedMerges, refuse_what_cannot_be) {
  Merge merge = merge_of({8, 8, DType::f32, 50}, 2);
  const auto tiles = bring(merge.sums.tiles());
  const UpdateOps::Finish good = in_numbers(merge, {});
  const auto refused = [&](auto change) {
    UpdateOps::Finish how = good;
    change(how);
    EXPECT_THROW((void)ops_.finish(how, tiles.get()), LogicError);
  };
  refused([](auto& how) { how.rows = -1; });
  refused([](auto& how) { how.rows = std::int64_t{1} << 40; });
  refused([](auto& how) { how.clients = 0; });
  refused([](auto& how) { how.clients = 1U << 24; });
  refused([](auto& how) { how.target = 65; });
  refused([](auto& how) { how.target = -2; });
  refused([](auto& how) { how.keep = 2, how.group = 4; });  // and a target
  refused([](auto& how) { how.target = -1, how.keep = 5, how.group = 4; });
  refused([](auto& how) { how.target = -1, how.keep = 1, how.group = 3; });
  refused([](auto& how) { how.column_weights = how.column_weights.first(7); });
  merge.diagonal[3] = -1;
  refused([](auto&) {});
  merge.diagonal[3] = 1;
  refused([](auto& how) { how.clients = 1; });  // two kept some of the weights
}

INSTANTIATE_TEST_SUITE_P(Backends, FinishedMerges, testing::ValuesIn(test::backend_names()));

}  // namespace
}  // namespace fedspallm::backend
