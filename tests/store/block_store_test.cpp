// SPDX-License-Identifier: Apache-2.0
// Block files, manifest and linking file: what is written comes back, and only what is finished counts.
#include "fedspallm/data/hdf5.hpp"

#include "store_support.hpp"
#include <algorithm>
#include <tuple>

namespace fedspallm::store::test {
namespace {

using Case = std::tuple<std::pair<std::int64_t, std::int64_t>, DType, Dropped>;

class BlockRoundTrip : public testing::TestWithParam<Case> {};

TEST_P(BlockRoundTrip, GivesBackEveryFieldOfTheRecord) {
  const auto& [shape, dtype, dropped] = GetParam();
  const TemporaryFolder folder;
  BlockStore store = BlockStore::of_run({folder.path()});
  BlockRecord record{.round = 2, .block = 17, .matrices = {}};
  record.matrices.push_back(consistent_record("model.layers.17.mlp.up_proj.weight",
                                              random_packed(shape.first, shape.second, dtype, dropped), 3));
  record.matrices.push_back(
      consistent_record("a.first.by.name", random_packed(shape.first, shape.second, dtype, dropped, 2), 1));
  record.matrices[1].expanded = std::min<std::int64_t>(4, record.matrices[1].matrix.size());
  record.matrices[1].keep = 2;
  record.matrices[1].group = 4;
  record.matrices[1].target = -1;
  store.write_block(record);
  expect_equal(store.read_block(2, 17), record);
  expect_equal(BlockStore::of_run({folder.path()}).read_block(2, 17), record);
}

INSTANTIATE_TEST_SUITE_P(Shapes, BlockRoundTrip,
                         testing::Combine(testing::Values(std::pair{0, 0}, std::pair{1, 1}, std::pair{3, 1},
                                                          std::pair{1, 7}, std::pair{5, 13}, std::pair{8, 8},
                                                          std::pair{9, 64}, std::pair{4, 129}),
                                          testing::Values(DType::f32, DType::f16, DType::bf16),
                                          testing::Values(Dropped::none, Dropped::half, Dropped::all)));

class VoteWidth : public testing::TestWithParam<std::pair<std::uint32_t, const char*>> {};

TEST_P(VoteWidth, IsTheNarrowestThatHoldsTheNumberOfClients) {
  const auto& [clients, type] = GetParam();
  const TemporaryFolder folder;
  BlockStore store = BlockStore::of_run({folder.path()});
  BlockRecord record{.round = 1, .block = 0, .matrices = {}};
  record.matrices.push_back(consistent_record("w", random_packed(3, 5, DType::f32, Dropped::half), clients));
  store.write_block(record);
  expect_equal(store.read_block(1, 0), record);
  const auto file = data::hdf5::File::open(store.block_file(1, 0));
  EXPECT_EQ(file.root().open_group("w").describe("votes").type, type);
}

INSTANTIATE_TEST_SUITE_P(Clients, VoteWidth,
                         testing::Values(std::pair{1U, "uint8"}, std::pair{255U, "uint8"},
                                         std::pair{256U, "uint16"}, std::pair{65535U, "uint16"},
                                         std::pair{65536U, "uint32"}));

TEST(BlockFile, IsReadableByAnyHdf5ReaderAsDocumented) {
  const TemporaryFolder folder;
  BlockStore store = BlockStore::of_run({folder.path()});
  const wire::PackedMatrix matrix = random_packed(3, 5, DType::bf16, Dropped::half);
  store.write_block({.round = 1, .block = 0, .matrices = {consistent_record("w", matrix, 2)}});
  const auto file = data::hdf5::File::open(folder.path() / "blocks" / "r01-b0000.h5");
  const auto group = file.root().open_group("w");
  EXPECT_EQ(group.read_string("dtype"), "bfloat16");
  const auto mask = group.read<std::uint8_t>("mask");
  ASSERT_EQ(mask.size(), 2U);
  for (int i = 0; i < 15; ++i) EXPECT_EQ((mask[i / 8] >> (i % 8)) & 1, is_kept(matrix, i) ? 1 : 0) << i;
  EXPECT_EQ(mask[1] >> 7, 0);
  EXPECT_EQ(group.describe("values").type, "uint16");
  EXPECT_EQ(group.read<std::uint16_t>("values").size(), static_cast<std::size_t>(matrix.kept));
  EXPECT_EQ(group.describe("votes").shape, (std::vector<std::int64_t>{3, 5}));
  EXPECT_EQ(file.root().read_integer("format_version"), kFormatVersion);
}

TEST(BlockStore, KeepsAnUnprunedMatrixWithItsShapeAndNothingElse) {
  const TemporaryFolder folder;
  BlockStore store = BlockStore::of_run({folder.path()});
  MatrixRecord dense;
  dense.name = "w";
  dense.pruned = false;
  dense.matrix.rows = 6;
  dense.matrix.cols = 4;
  const BlockRecord record{.round = 1, .block = 3, .matrices = {dense}};
  store.write_block(record);
  expect_equal(store.read_block(1, 3), record);
}

TEST(BlockStore, WritesEqualBytesForEqualRecords) {
  const TemporaryFolder a;
  const TemporaryFolder b;
  const BlockRecord record{
      .round = 1,
      .block = 0,
      .matrices = {consistent_record("w", random_packed(9, 33, DType::f16, Dropped::half), 4)}};
  for (const fs::path& path : {a.path(), b.path()}) {
    BlockStore store = BlockStore::of_run({path});
    store.write_block(record);
    store.write_links({}, true);
  }
  EXPECT_EQ(files_of(a.path()), files_of(b.path()));
  EXPECT_EQ(files_of(a.path() / "blocks"), files_of(b.path() / "blocks"));
}

BlockRecord small_block(std::uint32_t round, std::uint32_t block, std::uint64_t seed = 1) {
  return {.round = round,
          .block = block,
          .matrices = {consistent_record("w", random_packed(4, 6, DType::f32, Dropped::half, seed), 2)}};
}

TEST(BlockStore, ListsBlocksInAscendingOrderAndFindsTheNewestRound) {
  const TemporaryFolder folder;
  BlockStore store = BlockStore::of_run({folder.path()});
  for (const auto& [round, block] : {std::pair{2U, 0U}, std::pair{1U, 1U}, std::pair{1U, 0U}})
    store.write_block(small_block(round, block, round));
  using Pairs = std::vector<std::pair<std::uint32_t, std::uint32_t>>;
  EXPECT_EQ(store.blocks(), (Pairs{{1, 0}, {1, 1}, {2, 0}}));
  EXPECT_TRUE(store.has_block(1, 1));
  EXPECT_FALSE(store.has_block(2, 1));
  expect_equal(store.newest(0).value(), small_block(2, 0, 2));
  expect_equal(store.newest(1).value(), small_block(1, 1, 1));
  EXPECT_EQ(store.newest_round(0), 2U);
  EXPECT_FALSE(store.newest(7).has_value());
}

TEST(BlockStore, ReplacesABlockThatIsWrittenAgain) {
  const TemporaryFolder folder;
  BlockStore store = BlockStore::of_run({folder.path()});
  store.write_block(small_block(1, 0, 1));
  store.write_block(small_block(1, 0, 2));
  expect_equal(store.read_block(1, 0), small_block(1, 0, 2));
  EXPECT_EQ(store.blocks().size(), 1U);
}

TEST(BlockStore, ForgetsFromAPositionOn) {
  const TemporaryFolder folder;
  BlockStore store = BlockStore::of_run({folder.path()});
  for (const auto& [round, block] :
       {std::pair{1U, 0U}, std::pair{1U, 1U}, std::pair{2U, 0U}, std::pair{2U, 1U}})
    store.write_block(small_block(round, block));
  store.forget_from(2, 1);
  EXPECT_EQ(store.newest_round(1), 1U);
  store.forget_from(1, 1);
  using Pairs = std::vector<std::pair<std::uint32_t, std::uint32_t>>;
  EXPECT_EQ(BlockStore::of_run({folder.path()}).blocks(), (Pairs{{1, 0}}));
  EXPECT_FALSE(fs::exists(store.block_file(1, 1)));
  write_file(folder.path() / "manifest.json", "damaged");  // the one before lists no more
  BlockStore later = BlockStore::of_run({folder.path()});
  EXPECT_NE(later.recover(), "");
  EXPECT_EQ(later.blocks(), (Pairs{{1, 0}}));
}

TEST(BlockFiles, OfSeveralWritersCountOnceTheKeeperOfTheListHasTakenThemUp) {
  const TemporaryFolder folder;
  BlockStore keeper = BlockStore::of_run({folder.path()});
  keeper.write_block(small_block(1, 0, 1));
  const BlockFiles writer(RunPaths{folder.path()}.blocks(), keeper.list());
  expect_equal(writer.read_block(1, 0), small_block(1, 0, 1));
  const std::string entry = writer.write_file(small_block(1, 3, 2));
  EXPECT_FALSE(writer.has_block(1, 3));
  EXPECT_FALSE(keeper.has_block(1, 3));
  EXPECT_EQ(names_in(folder.path() / "blocks"), (std::vector<std::string>{"r01-b0000.h5", "r01-b0003.h5"}));
  EXPECT_EQ(BlockStore::of_run({folder.path()}).blocks().size(), 1U);
  keeper.list_block(entry);
  expect_equal(keeper.read_block(1, 3), small_block(1, 3, 2));
  expect_equal(BlockStore::of_run({folder.path()}).read_block(1, 3), small_block(1, 3, 2));
  expect_equal(BlockFiles(RunPaths{folder.path()}.blocks(), keeper.list()).read_block(1, 3),
               small_block(1, 3, 2));
}

TEST(BlockFiles, ReplacedButNotTakenUpCountAsDamaged) {
  const TemporaryFolder folder;
  BlockStore keeper = BlockStore::of_run({folder.path()});
  keeper.write_block(small_block(1, 0, 1));
  const std::string entry =
      BlockFiles(RunPaths{folder.path()}.blocks(), keeper.list()).write_file(small_block(1, 0, 2));
  expect_error<DataError>([&] { (void)keeper.read_block(1, 0); }, {"r01-b0000.h5"});
  keeper.list_block(entry);
  expect_equal(keeper.read_block(1, 0), small_block(1, 0, 2));
  EXPECT_EQ(keeper.blocks().size(), 1U);
}

TEST(BlockFiles, WithoutVotesHaveEverythingElse) {
  const TemporaryFolder folder;
  BlockStore store = BlockStore::of_run({folder.path()});
  BlockRecord record = small_block(1, 0, 1);
  store.write_block(record);
  ASSERT_FALSE(record.matrices.front().votes.empty());
  for (MatrixRecord& matrix : record.matrices) matrix.votes.clear();
  expect_equal(store.read_block(1, 0, Votes::skip), record);
  const std::optional<BlockRecord> newest = store.newest(0, Votes::skip);
  ASSERT_TRUE(newest.has_value());
  expect_equal(*newest, record);
}

TEST(BlockFiles, RefuseListsAndEntriesThatAreNone) {
  const TemporaryFolder folder;
  BlockStore keeper = BlockStore::of_run({folder.path()});
  keeper.write_block(small_block(1, 0, 1));
  std::string list = keeper.list();
  list[list.find("\"bytes\": ") + 9] ^= 1;
  for (const std::string& bad : {std::string("{}"), std::string("x"), list})
    expect_error<DataError>([&] { (void)BlockFiles(folder.path() / "blocks", bad); }, {"blocks", "damaged"});
  const BlockFiles none(folder.path() / "blocks", "");
  EXPECT_TRUE(none.blocks().empty());
  expect_error<DataError>([&] { (void)none.read_block(1, 0); }, {"blocks", "holds no round 1, block 0"});
  const std::string entry = none.write_file(small_block(1, 1, 1));
  std::string moved = entry;
  moved.replace(moved.find("b0001"), 5, "b0002");
  expect_error<DataError>([&] { keeper.list_block(moved); }, {"r01-b0002.h5", "r01-b0001.h5"});
  for (const std::string& bad : {std::string(""), std::string("[]"), std::string("{\"round\":1}")})
    expect_error<DataError>([&] { keeper.list_block(bad); }, {"an entry of a manifest"});
  EXPECT_EQ(keeper.blocks().size(), 1U);
}

TEST(BlockStore, NamesWhatItDoesNotHold) {
  const TemporaryFolder folder;
  const BlockStore store = BlockStore::of_run({folder.path()});
  expect_error<DataError>([&] { (void)store.read_block(1, 4); }, {"manifest.json", "round 1", "block 4"});
  EXPECT_TRUE(store.blocks().empty());
  EXPECT_FALSE(store.complete());
}

TEST(BlockStore, ReadingCreatesNothing) {
  const TemporaryFolder folder;
  const BlockStore store = BlockStore::of_run({folder.path()});
  EXPECT_FALSE(store.has_block(1, 0));
  EXPECT_TRUE(names_in(folder.path()).empty());
}

TEST(BlockStore, LeavesNoUnfinishedFiles) {
  const TemporaryFolder folder;
  BlockStore store = BlockStore::of_run({folder.path()});
  store.write_block(small_block(1, 0));
  store.write_links({}, false);
  EXPECT_EQ(names_in(folder.path()),
            (std::vector<std::string>{"blocks", "manifest.json", "manifest.previous.json", "run.h5"}));
  EXPECT_EQ(names_in(folder.path() / "blocks"), (std::vector<std::string>{"r01-b0000.h5"}));
}

Provenance full_provenance() {
  Provenance provenance;
  provenance.config_toml =
      std::string(200000, '#') + "\n[model]\npath = \"a \\\"b\\\"\"\n";  // more than an attribute holds
  provenance.entries = {
      {"version", "0.1.0"}, {"empty", ""}, {"a key with / and .", "täst"}, {"b", "2"}, {"a", "1"}};
  provenance.clients = {"novels", "", "naïve / client"};
  provenance.token_sha256 = {"00", "", "ff"};
  provenance.warnings = {"line one\nline two"};
  provenance.rounds = 3;
  provenance.blocks = 30;
  provenance.sparsity = 0.625;
  return provenance;
}

TEST(LinkFile, GivesBackTheProvenance) {
  const TemporaryFolder folder;
  BlockStore store = BlockStore::of_run({folder.path()});
  store.write_links(full_provenance(), true);
  const Provenance found = BlockStore::of_run({folder.path()}).read_provenance();
  EXPECT_EQ(found.config_toml, full_provenance().config_toml);
  EXPECT_EQ(found.entries, full_provenance().entries);
  EXPECT_EQ(found.clients, full_provenance().clients);
  EXPECT_EQ(found.token_sha256, full_provenance().token_sha256);
  EXPECT_EQ(found.warnings, full_provenance().warnings);
  EXPECT_EQ(found.rounds, 3);
  EXPECT_EQ(found.blocks, 30);
  EXPECT_EQ(found.sparsity, 0.625);
}

TEST(LinkFile, ReplacesBytesThatAreNoUtf8) {
  const TemporaryFolder folder;
  BlockStore store = BlockStore::of_run({folder.path()});
  Provenance provenance;
  provenance.warnings = {"bad \xff byte"};
  store.write_links(provenance, true);
  EXPECT_EQ(store.read_provenance().warnings, (std::vector<std::string>{"bad \xef\xbf\xbd byte"}));
}

TEST(LinkFile, TellsFinishedRunsFromUnfinishedOnes) {
  const TemporaryFolder folder;
  BlockStore store = BlockStore::of_run({folder.path()});
  EXPECT_FALSE(store.complete());
  store.write_links({}, false);
  EXPECT_FALSE(store.complete());
  store.write_links({}, true);
  EXPECT_TRUE(store.complete());
  EXPECT_TRUE(BlockStore::of_run({folder.path()}).complete());
}

TEST(LinkFile, ShowsTheBlocksThroughLinksAlsoAfterTheDirectoryMoved) {
  const TemporaryFolder folder;
  const fs::path before = folder.path() / "run";
  const fs::path after = folder.path() / "elsewhere";
  BlockStore store = BlockStore::of_run({before});
  store.write_block(small_block(1, 0));
  store.write_block(small_block(1, 12));
  store.write_links({}, true);
  fs::rename(before, after);
  const auto file = data::hdf5::File::open(after / "run.h5");
  const auto blocks = file.root().open_group("blocks");
  EXPECT_EQ(blocks.names(), (std::vector<std::string>{"r01-b0000", "r01-b0012"}));
  EXPECT_EQ(blocks.open_group("r01-b0012").read_integer("block"), 12);
  EXPECT_TRUE(BlockStore::of_run({after}).complete());
}

TEST(BlockStore, ClearRemovesItsOwnFilesOnly) {
  const TemporaryFolder folder;
  BlockStore store = BlockStore::of_run({folder.path()});
  store.write_block(small_block(1, 0));
  store.write_links({}, true);
  write_file(folder.path() / "blocks" / "r03-b0004.h5.part", "torn");
  write_file(folder.path() / "manifest.json.part", "torn");
  write_file(folder.path() / "blocks" / "notes.txt", "mine");
  write_file(folder.path() / "blocks" / "r1-b0004.h5", "mine");
  write_file(folder.path() / "config.toml", "kept");
  store.clear();
  EXPECT_EQ(names_in(folder.path()), (std::vector<std::string>{"blocks", "config.toml"}));
  EXPECT_EQ(names_in(folder.path() / "blocks"), (std::vector<std::string>{"notes.txt", "r1-b0004.h5"}));
  EXPECT_TRUE(store.blocks().empty());
  EXPECT_FALSE(store.complete());
  store.write_block(small_block(1, 0));
  EXPECT_TRUE(store.has_block(1, 0));
}

TEST(BlockStore, ClearOfNothingIsNoError) {
  const TemporaryFolder folder;
  EXPECT_NO_THROW(BlockStore::of_run({folder.path() / "not" / "there"}).clear());
}

TEST(ClientStore, KeepsClientsApartUnderTheirNames) {
  const TemporaryFolder folder;
  const RunPaths paths{folder.path()};
  for (const std::string name : {"novels", "a/b"}) {
    BlockStore store = BlockStore::of_client(paths, name);
    store.write_block(small_block(1, 0, name.size()));
    store.write_links({}, true);
  }
  EXPECT_EQ(names_in(paths.clients()),
            (std::vector<std::string>{"a%2Fb", "a%2Fb.h5", "novels", "novels.h5"}));
  expect_equal(BlockStore::of_client(paths, "a/b").read_block(1, 0), small_block(1, 0, 3));
  expect_equal(BlockStore::of_client(paths, "novels").read_block(1, 0), small_block(1, 0, 6));
  const auto file = data::hdf5::File::open(paths.clients() / "a%2Fb.h5");
  EXPECT_EQ(file.root().open_group("blocks").open_group("r01-b0000").read_integer("block"), 0);
}

TEST(ClientStore, MakesOnePlainFileNameOfAnyClientName) {
  EXPECT_EQ(client_file_name("novels"), "novels");
  EXPECT_EQ(client_file_name("Python docs_3.11-x"), "Python docs_3.11-x");
  EXPECT_EQ(client_file_name("../etc"), "%2E.%2Fetc");
  EXPECT_EQ(client_file_name("."), "%2E");
  EXPECT_EQ(client_file_name("100%"), "100%25");
  EXPECT_EQ(client_file_name("\xc3\xa9"), "%C3%A9");
  expect_error<LogicError>([] { (void)client_file_name(""); }, {"name"});
}

TEST(BlockStore, RefusesRecordsWhoseCountsDisagree) {
  const TemporaryFolder folder;
  BlockStore store = BlockStore::of_run({folder.path()});
  const auto refuses = [&](auto change, const std::string& fragment) {
    BlockRecord record = small_block(1, 0);
    change(record.matrices[0]);
    expect_error<LogicError>([&] { store.write_block(record); }, {fragment});
  };
  refuses([](MatrixRecord& record) { record.name.clear(); }, "name");
  refuses([](MatrixRecord& record) { ++record.matrix.kept; }, "keeps");
  refuses([](MatrixRecord& record) { record.matrix.bits.push_back(0); }, "words");
  refuses([](MatrixRecord& record) { record.matrix.bits[0] |= std::uint64_t{1} << 60; },
          "behind its last weight");
  refuses([](MatrixRecord& record) { record.matrix.values.pop_back(); }, "bytes of values");
  refuses([](MatrixRecord& record) { record.matrix.rows = -4; }, "negative");
  refuses([](MatrixRecord& record) { record.votes.pop_back(); }, "votes");
  refuses([](MatrixRecord& record) { record.pruned = false; }, "nobody pruned");
  EXPECT_TRUE(store.blocks().empty());
  EXPECT_TRUE(names_in(folder.path() / "blocks").empty());
}

}  // namespace
}  // namespace fedspallm::store::test
