// SPDX-License-Identifier: Apache-2.0
// Damaged, torn and hostile files: each is recognised, named, and never read as complete.
#include "fedspallm/base/hash.hpp"
#include "fedspallm/data/hdf5.hpp"

#include <nlohmann/json.hpp>
#include <sys/stat.h>

#include "store_support.hpp"
#include <functional>
#include <set>

namespace fedspallm::store::test {
namespace {

namespace hdf5 = data::hdf5;

class Damage : public testing::Test {
 protected:
  void SetUp() override {
    BlockStore store = BlockStore::of_run(paths);
    for (const std::uint32_t block : {0U, 1U})
      store.write_block(
          {.round = 1,
           .block = block,
           .matrices = {consistent_record("w", random_packed(5, 13, DType::bf16, Dropped::half), 2)}});
    store.write_links({}, true);
    block_file = store.block_file(1, 0);
  }
  [[nodiscard]] BlockStore store() const { return BlockStore::of_run(paths); }
  void expect_block_refused(const std::string& fragment) const {
    expect_error<DataError>([&] { (void)store().read_block(1, 0); }, {block_file.string(), fragment});
    EXPECT_NO_THROW((void)store().read_block(1, 1)) << "the other block is good";
  }

  TemporaryFolder folder;
  RunPaths paths{folder.path()};
  fs::path block_file;
};

TEST_F(Damage, EveryFlippedBitOfABlockFileIsFound) {
  const std::size_t bytes = read_file(block_file).size();
  for (std::size_t offset = 0; offset < bytes; offset += 97) {
    flip_bit(block_file, offset, static_cast<int>(offset % 8));
    expect_block_refused("damaged");
    flip_bit(block_file, offset, static_cast<int>(offset % 8));
  }
  EXPECT_NO_THROW((void)store().read_block(1, 0));
}

TEST_F(Damage, ATruncatedOrEmptyBlockFileIsFound) {
  const std::string bytes = read_file(block_file);
  for (const std::size_t size : {std::size_t{0}, std::size_t{1}, bytes.size() / 2, bytes.size() - 1}) {
    write_file(block_file, bytes.substr(0, size));
    expect_block_refused("torn");
  }
}

TEST_F(Damage, AMissingBlockFileIsFound) {
  fs::remove(block_file);
  expect_block_refused("missing");
  fs::create_directory(block_file);
  expect_block_refused("not a regular file");
}

TEST_F(Damage, AnotherBlocksFileInItsPlaceIsFound) {
  fs::copy_file(store().block_file(1, 1), block_file, fs::copy_options::overwrite_existing);
  restamp(paths, 1, 0);
  expect_block_refused("expected round 1, block 0");
}

TEST_F(Damage, AManifestThatIsDamagedGivesWayToTheOneBefore) {
  BlockStore sound = store();
  EXPECT_EQ(sound.recover(), "");
  const auto all = sound.blocks();
  std::ofstream(paths.manifest()) << "{";
  BlockStore damaged = store();
  EXPECT_THROW((void)damaged.blocks(), DataError);
  EXPECT_THAT(damaged.recover(), testing::HasSubstr("going back to"));
  EXPECT_LE(damaged.blocks().size(), all.size());
  EXPECT_FALSE(damaged.blocks().empty());
  EXPECT_EQ(store().blocks(), damaged.blocks()) << "a process killed from here on leaves no damaged one";
  std::ofstream(paths.manifest()) << "{";
  std::ofstream(paths.dir / "manifest.previous.json") << "{";
  BlockStore lost = store();
  EXPECT_THROW(lost.recover(), DataError);
  EXPECT_NO_THROW(lost.clear());
  EXPECT_TRUE(store().blocks().empty());
}

TEST_F(Damage, UnfinishedFilesAreNeverRead) {
  fs::rename(block_file, block_file.string() + ".part");
  expect_block_refused("missing");
  fs::rename(paths.manifest(), paths.manifest().string() + ".part");
  EXPECT_FALSE(store().blocks().empty()) << "the manifest before the last one counts";
  fs::remove(paths.dir / "manifest.previous.json");
  EXPECT_TRUE(store().blocks().empty());
  fs::rename(paths.run_file(), paths.run_file().string() + ".part");
  EXPECT_FALSE(store().complete());
}

TEST_F(Damage, EveryFlippedBitOfTheManifestIsFoundByEveryReader) {
  const std::size_t bytes = read_file(paths.manifest()).size();
  for (std::size_t offset = 0; offset + 1 < bytes; ++offset) {  // the last byte is the final newline
    flip_bit(paths.manifest(), offset, 1);
    const BlockStore damaged = store();
    // JSON allows white space to differ; then nothing has changed.
    try {
      EXPECT_EQ(damaged.blocks().size(), 2U) << "offset " << offset;
    } catch (const DataError& error) {
      EXPECT_THAT(error.what(), testing::HasSubstr(paths.manifest().string()));
    }
    flip_bit(paths.manifest(), offset, 1);
  }
}

TEST_F(Damage, ATruncatedManifestIsNamedByEveryMember) {
  const std::string bytes = read_file(paths.manifest());
  for (const std::size_t size : {std::size_t{0}, std::size_t{1}, bytes.size() / 2, bytes.size() - 3}) {
    write_file(paths.manifest(), bytes.substr(0, size));
    BlockStore damaged = store();
    const std::vector<std::string> named = {paths.manifest().string(), "damaged"};
    expect_error<DataError>([&] { (void)damaged.blocks(); }, named);
    expect_error<DataError>([&] { (void)damaged.has_block(1, 0); }, named);
    expect_error<DataError>([&] { (void)damaged.read_block(1, 0); }, named);
    expect_error<DataError>([&] { (void)damaged.newest(0); }, named);
    expect_error<DataError>([&] { (void)damaged.read_provenance(); }, named);
    expect_error<DataError>([&] { (void)damaged.complete(); }, named);
    expect_error<DataError>([&] { damaged.write_links({}, true); }, named);
    expect_error<DataError>([&] { damaged.write_block({}); }, named);
  }
}

TEST_F(Damage, ClearStartsAnewFromADamagedManifest) {
  write_file(paths.manifest(), "{");
  BlockStore damaged = store();
  damaged.clear();
  EXPECT_TRUE(damaged.blocks().empty());
  EXPECT_TRUE(names_in(paths.blocks()).empty());
}

/// The manifest's text with its first `from` replaced, and the checksum that nlohmann's own reading would
/// give it.
std::string forged(const std::string& text, const std::string& from, const std::string& to) {
  const std::size_t place = text.find(from);
  EXPECT_NE(place, std::string::npos) << from;
  auto json = nlohmann::ordered_json::parse(std::string(text).replace(place, from.size(), to));
  json.erase("xxh3");
  json["xxh3"] = fmt::format("{:016x}", checksum(fedspallm::test::as_bytes(json.dump())));
  return json.dump();
}

TEST_F(Damage, NumbersOfTheManifestAreWholeNumbers) {
  const std::string good = read_file(paths.manifest());
  for (const char* value : {"-1", "1.5", "1e300", "true", "4294967296", "null", "\"1\""}) {
    write_file(paths.manifest(), forged(good, "\"round\": 1", fmt::format("\"round\": {}", value)));
    expect_error<DataError>([&] { (void)store().blocks(); }, {"manifest.json", "damaged", "'round'"});
  }
}

TEST_F(Damage, AManifestHoldsEachBlockOnceInOrderAndNothingElse) {
  const std::string good = read_file(paths.manifest());
  write_file(paths.manifest(), forged(good, "\"block\": 1", "\"block\": 0"));
  expect_error<DataError>([&] { (void)store().blocks(); }, {"damaged", "occurs twice"});
  write_file(paths.manifest(), forged(good, "\"links\"", "\"more\": 1, \"links\""));
  expect_error<DataError>([&] { (void)store().blocks(); }, {"damaged", "its own checksum"});
  const std::size_t links = good.find("\"links\"");
  write_file(paths.manifest(), good.substr(0, links) + "\"entries\": [], " + good.substr(links));
  expect_error<DataError>([&] { (void)store().blocks(); }, {"damaged", "'entries' occurs twice"});
}

TEST_F(Damage, ADeepManifestIsRefusedWithoutRecursion) {
  const std::string deep = std::string(200'000, '[') + std::string(200'000, ']');
  write_file(paths.manifest(), R"({"xxh3":"0000000000000000","entries":)" + deep + "}");
  expect_error<DataError>([&] { (void)store().blocks(); }, {"damaged", "100 deep"});
}

TEST_F(Damage, APipeInPlaceOfTheManifestDoesNotBlock) {
  fs::remove(paths.manifest());
  ASSERT_EQ(::mkfifo(paths.manifest().c_str(), 0600), 0);
  expect_error<DataError>([&] { (void)store().blocks(); }, {"manifest.json", "not a regular file"});
}

TEST_F(Damage, AManifestMayNotPointOutOfItsFolder) {
  for (const std::string& name : {std::string("../run.h5"), std::string(), std::string(".hidden"),
                                  std::string("a/b"), std::string("a\0b", 3)}) {
    Manifest manifest = read_manifest(paths.manifest());
    manifest.entries[0].stamp.file = name;
    write_manifest(paths.manifest(), manifest);
    expect_error<DataError>([&] { (void)store().blocks(); }, {"manifest.json", "without folders"});
    manifest.entries[0].stamp.file = "r01-b0000.h5";
    write_manifest(paths.manifest(), manifest);
  }
}

TEST_F(Damage, EveryFlippedBitOfTheRunFileIsFound) {
  const std::size_t bytes = read_file(paths.run_file()).size();
  for (std::size_t offset = 0; offset < bytes; offset += 97) {
    flip_bit(paths.run_file(), offset);
    expect_error<DataError>([&] { (void)store().complete(); }, {paths.run_file().string(), "damaged"});
    expect_error<DataError>([&] { (void)store().read_provenance(); }, {paths.run_file().string()});
    flip_bit(paths.run_file(), offset);
  }
  EXPECT_TRUE(store().complete());
}

TEST_F(Damage, ATruncatedMissingOrUnlistedRunFileIsFound) {
  write_file(paths.run_file(), read_file(paths.run_file()).substr(0, 100));
  expect_error<DataError>([&] { (void)store().complete(); }, {"run.h5", "torn", "100 bytes"});
  fs::remove(paths.run_file());
  EXPECT_FALSE(store().complete());
  expect_error<DataError>([&] { (void)store().read_provenance(); }, {"run.h5", "no such file"});
  write_file(paths.run_file(), "anything");
  fs::remove(paths.manifest());
  expect_error<DataError>([&] { (void)store().complete(); }, {"run.h5", "cannot be trusted"});
}

TEST_F(Damage, AStopBetweenManifestAndRunFileLeavesTheOldRunFileGood) {
  const std::string before = read_file(paths.run_file());
  Provenance other;
  other.config_toml = "other";
  store().write_links(other, false);
  write_file(paths.run_file(), before);  // the rename did not happen
  EXPECT_TRUE(store().complete());
  store().write_links(other, false);
  EXPECT_FALSE(store().complete());
}

// ---------------------------------------------------------------- well-formed HDF5 with wrong content,
// checksums right

/// The group `clients` of one client.
void write_clients(const hdf5::Group& matrix, std::int64_t kept, bool nameless = false) {
  const hdf5::Group clients = matrix.create_group("clients");
  if (!nameless) clients.write("client", std::vector<std::uint32_t>{0});
  clients.write("kept", std::vector<std::int64_t>{kept});
  for (const char* name : {"dead_columns", "kept_zeros"}) clients.write(name, std::vector<std::int64_t>{0});
  for (const char* name : {"error", "seconds"}) clients.write(name, std::vector<double>{0});
  clients.write("damping", std::vector<float>{0});
  clients.write("damping_steps", std::vector<std::int32_t>{0});
}

/// A block file of one 3 x 5 float32 matrix that drops nothing; `skip` leaves things out, `extra` puts others
/// in.
void write_crafted(const fs::path& path, const std::set<std::string>& skip,
                   const std::function<void(const hdf5::Group& root, const hdf5::Group& group)>& extra) {
  hdf5::File file = hdf5::File::create(path);
  const hdf5::Group& root = file.root();
  const auto integer = [&](const hdf5::Group& group, const char* name, std::int64_t value) {
    if (!skip.contains(name)) group.write_integer(name, value);
  };
  integer(root, "format_version", 1);
  if (!skip.contains("kind")) root.write_string("kind", "fedspallm block");
  integer(root, "round", 1);
  integer(root, "block", 0);
  integer(root, "matrices", 1);
  const hdf5::Group group = root.create_group("w");
  group.write_integer("format_version", 1);
  if (!skip.contains("name")) group.write_string("name", "w");
  if (!skip.contains("dtype")) group.write_string("dtype", "float32");
  const std::vector<std::pair<const char*, std::int64_t>> counts = {
      {"index", 0},    {"pruned", 1},       {"rows", 3},       {"cols", 5}, {"kept", 15}, {"target", 0},
      {"expanded", 0}, {"common_zeros", 0}, {"kept_zeros", 0}, {"N", 0},    {"M", 0}};
  for (const auto& [name, value] : counts) integer(group, name, value);
  if (!skip.contains("mask")) group.write("mask", std::vector<std::uint8_t>{0xFF, 0x7F});
  if (!skip.contains("values")) group.write("values", std::vector<float>(15, 1.0F));
  if (!skip.contains("clients")) write_clients(group, 0, skip.contains("client"));
  extra(root, group);
  file.close();
}

struct Crafted {
  const char* title;
  std::set<std::string> skip;
  std::function<void(const hdf5::Group& root, const hdf5::Group& group)> extra;
  std::string fragment;
};

void PrintTo(const Crafted& value, std::ostream* stream) {
  *stream << value.title;
}

class CraftedBlock : public Damage, public testing::WithParamInterface<Crafted> {};

TEST_P(CraftedBlock, IsRefusedNamingFileAndObject) {
  write_crafted(block_file, GetParam().skip, GetParam().extra);
  restamp(paths, 1, 0);
  expect_block_refused(GetParam().fragment);
}

template <class T>
auto dataset(const char* name, std::vector<T> values) {
  return [=](const hdf5::Group&, const hdf5::Group& group) { group.write(name, values); };
}
auto attribute(const char* name, std::int64_t value) {
  return [=](const hdf5::Group&, const hdf5::Group& group) { group.write_integer(name, value); };
}
auto root_attribute(const char* name, std::int64_t value) {
  return [=](const hdf5::Group& root, const hdf5::Group&) { root.write_integer(name, value); };
}
void nothing(const hdf5::Group&, const hdf5::Group&) {}
void votes(const hdf5::Group& group, hdf5::Matrix2d shape) {
  const std::vector<std::uint8_t> values(static_cast<std::size_t>(shape.rows * shape.cols));
  group.write_2d<std::uint8_t>("votes", shape, values);
}

const std::vector<Crafted> kCrafted = {
    {"no_mask", {"mask"}, nothing, "mask"},
    {"short_mask", {"mask"}, dataset<std::uint8_t>("mask", {0xFF}), "expected 2"},
    {"empty_mask", {"mask"}, dataset<std::uint8_t>("mask", {}), "expected 2"},
    {"mask_of_words", {"mask"}, dataset<std::uint32_t>("mask", {1, 2}), "uint32"},
    {"mask_padding", {"mask"}, dataset<std::uint8_t>("mask", {0xFF, 0xFF}), "behind its last weight"},
    {"mask_disagrees", {"mask"}, dataset<std::uint8_t>("mask", {0xFE, 0x7F}), "mask keeps 14"},
    {"no_values", {"values"}, nothing, "values"},
    {"few_values", {"values"}, dataset<float>("values", {1.0F}), "expected 60 for 15"},
    {"values_of_16_bits",
     {"values"},
     dataset<std::uint16_t>("values", std::vector<std::uint16_t>(15)),
     "uint16"},
    {"no_rows", {"rows"}, nothing, "rows"},
    {"negative_rows", {"rows"}, attribute("rows", -3), "rows"},
    {"too_many_rows", {"rows"}, attribute("rows", std::int64_t{1} << 62), "2^48"},
    {"other_rows", {"rows"}, attribute("rows", 4), "expected 3"},
    {"kept_beyond", {"kept"}, attribute("kept", std::int64_t{1} << 62), "mask keeps 15"},
    {"target_beyond", {"target"}, attribute("target", 16), "attribute 'target' is 16, expected -1 to 15"},
    {"expanded_beyond", {"expanded"}, attribute("expanded", 16), "'expanded' is 16, expected 0 to 15"},
    {"common_zeros_beyond",
     {"common_zeros"},
     attribute("common_zeros", std::numeric_limits<std::int64_t>::max()),
     "'common_zeros' is 9223372036854775807, expected 0 to 15"},
    {"kept_zeros_beyond",
     {"kept_zeros"},
     attribute("kept_zeros", 16),
     "'kept_zeros' is 16, expected 0 to 15"},
    {"negative_kept", {"kept"}, attribute("kept", -1), "kept"},
    // Nobody pruned it, so there is no mask that such sides would have to fit.
    {"too_large_and_not_pruned",
     {"pruned", "rows", "cols"},
     [](const auto&, const auto& group) {
       group.write_integer("pruned", 0);
       group.write_integer("rows", std::int64_t{1} << 40);
       group.write_integer("cols", std::int64_t{1} << 40);
     },
     "2^48"},
    {"target_below", {"target"}, attribute("target", -2), "target"},
    {"pruned_2", {"pruned"}, attribute("pruned", 2), "pruned"},
    {"index_beyond", {"index"}, attribute("index", 1), "index"},
    {"pattern_too_large", {"M"}, attribute("M", std::int64_t{1} << 40), "'M'"},
    {"unknown_dtype",
     {"dtype"},
     [](const auto&, const auto& group) { group.write_string("dtype", "float8"); },
     "float8"},
    {"dtype_is_a_number", {"dtype"}, attribute("dtype", 1), "dtype"},
    {"flat_votes", {}, dataset<std::uint8_t>("votes", std::vector<std::uint8_t>(15)), "votes"},
    {"votes_turned",
     {},
     [](const auto&, const auto& group) {
       votes(group, {5, 3});
     },
     "5 x 3"},
    {"votes_of_floats", {}, dataset<float>("votes", {1.0F}), "float32"},
    {"flat_histogram_of_floats", {}, dataset<float>("histogram", {1.0F}), "histogram"},
    {"no_clients", {"clients"}, nothing, "clients"},
    {"clients_disagree",
     {"client"},
     [](const auto&, const auto& group) {
       group.open_group("clients").write("client", std::vector<std::uint32_t>{0, 1});
     },
     "expected 2"},
    {"client_kept_beyond",
     {"clients"},
     [](const auto&, const auto& group) { write_clients(group, 16); },
     "'kept' of client 0 is 16, expected 0 to 15"},
    {"client_kept_negative",
     {"clients"},
     [](const auto&, const auto& group) { write_clients(group, -1); },
     "'kept' of client 0 is -1"},
    {"other_kind",
     {"kind"},
     [](const auto& root, const auto&) { root.write_string("kind", "tokens"); },
     "fedspallm block"},
    {"other_version", {"format_version"}, root_attribute("format_version", 2), "format_version"},
    {"more_matrices", {"matrices"}, root_attribute("matrices", 2), "expected 2"},
    {"round_beyond", {"round"}, root_attribute("round", std::int64_t{1} << 32), "round"},
    {"negative_block", {"block"}, root_attribute("block", -1), "block"},
    {"a_dataset_in_the_root",
     {"matrices"},
     [](const auto& root, const auto&) {
       root.write_integer("matrices", 2);
       root.write("x", std::vector<float>{1.0F});
     },
     "/x"},
};

INSTANTIATE_TEST_SUITE_P(Files, CraftedBlock, testing::ValuesIn(kCrafted),
                         [](const auto& test) { return std::string(test.param.title); });

TEST_F(Damage, TheCraftedFileItselfIsGood) {
  write_crafted(block_file, {}, nothing);
  restamp(paths, 1, 0);
  const BlockRecord record = store().read_block(1, 0);
  EXPECT_EQ(record.matrices[0].matrix.kept, 15);
  EXPECT_EQ(record.matrices[0].clients.size(), 1U);
}

}  // namespace
}  // namespace fedspallm::store::test
