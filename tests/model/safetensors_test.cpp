// SPDX-License-Identifier: Apache-2.0
#include "fedspallm/model/safetensors.hpp"

#include "fedspallm/base/error.hpp"
#include "fedspallm/base/random.hpp"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include "support/expect_error.hpp"
#include "support/safetensors_builder.hpp"
#include "support/support.hpp"
#include <utility>

namespace fedspallm::model {
namespace {

using test::as_bytes;
using test::expect_error;
using test::safetensors_bytes;
using test::SafetensorsBuilder;

std::vector<TensorEntry> parse(const std::string& bytes) {
  std::int64_t header_bytes = -1;
  auto entries = parse_safetensors(as_bytes(bytes), "FILE", header_bytes);
  EXPECT_GE(header_bytes, 8);
  EXPECT_LE(header_bytes, static_cast<std::int64_t>(bytes.size()));
  return entries;
}

TEST(Safetensors, ListsEveryFieldInOrderOfOffset) {
  const std::string header =
      R"({"b":{"dtype":"F32","shape":[2,1],"data_offsets":[6,14]},"a":{"dtype":"BF16","shape":[3],"data_offsets":[0,6]},)"
      R"("__metadata__":{"format":"pt"}})";
  const std::string bytes = safetensors_bytes(header, std::string(14, 'x'));
  const auto entries = parse(bytes);
  const auto start = static_cast<std::int64_t>(8 + header.size());
  ASSERT_EQ(entries.size(), 2U);
  EXPECT_EQ(entries[0].name, "a");
  EXPECT_EQ(entries[0].dtype_name, "BF16");
  EXPECT_EQ(entries[0].dtype, DType::bf16);
  EXPECT_EQ(entries[0].shape, std::vector<std::int64_t>{3});
  EXPECT_EQ(entries[0].begin, start);
  EXPECT_EQ(entries[0].end, start + 6);
  EXPECT_EQ(entries[1].name, "b");
  EXPECT_EQ(entries[1].dtype, DType::f32);
  EXPECT_EQ(entries[1].shape, (std::vector<std::int64_t>{2, 1}));
  EXPECT_EQ(entries[1].end, start + 14);
}

struct Accepted {
  const char* what;
  std::string header;
  std::size_t data_bytes;
  std::size_t tensors;
};

void PrintTo(const Accepted& value, std::ostream* stream) {
  *stream << value.what;
}

class AcceptedFile : public testing::TestWithParam<Accepted> {};

TEST_P(AcceptedFile, IsRead) {
  const auto& [what, header, data_bytes, tensors] = GetParam();
  EXPECT_EQ(parse(safetensors_bytes(header, std::string(data_bytes, '\1'))).size(), tensors) << what;
}

INSTANTIATE_TEST_SUITE_P(
    Safetensors, AcceptedFile,
    testing::Values(
        Accepted{"no tensor at all", "{}", 0, 0}, Accepted{"header padded with spaces", "{}       ", 0, 0},
        Accepted{"metadata alone", R"({"__metadata__":{"a":"b"}})", 0, 0},
        Accepted{"a scalar", R"({"t":{"dtype":"F32","shape":[],"data_offsets":[0,4]}})", 4, 1},
        Accepted{"an empty tensor", R"({"t":{"dtype":"F32","shape":[0,7],"data_offsets":[0,0]}})", 0, 1},
        Accepted{
            "empty tensors between others",
            R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"e":{"dtype":"U8","shape":[0],"data_offsets":[1,1]},)"
            R"("b":{"dtype":"F16","shape":[1],"data_offsets":[1,3]}})",
            3, 3},
        Accepted{"a dtype that is only passed through",
                 R"({"t":{"dtype":"F8_E4M3","shape":[5],"data_offsets":[0,5]}})", 5, 1},
        Accepted{"elements below a byte", R"({"t":{"dtype":"F4","shape":[3,2],"data_offsets":[0,3]}})", 3,
                 1}));

struct Refused {
  const char* what;
  std::string header;
  std::size_t data_bytes;
  std::vector<std::string> fragments;
};

void PrintTo(const Refused& value, std::ostream* stream) {
  *stream << value.what;
}

class RefusedFile : public testing::TestWithParam<Refused> {};

TEST_P(RefusedFile, SaysWhatWasFoundAndExpected) {
  const auto& [what, header, data_bytes, fragments] = GetParam();
  SCOPED_TRACE(what);
  auto with_file = fragments;
  with_file.emplace_back("FILE");
  expect_error<ModelError>(
      [&] { static_cast<void>(parse(safetensors_bytes(header, std::string(data_bytes, '\1')))); }, with_file);
}

std::string one(const std::string& description) {
  return R"({"t":{)" + description + "}}";
}

const auto kShapeF32 = [](const std::string& shape, const std::string& offsets) {
  return one(R"("dtype":"F32","shape":)" + shape + R"(,"data_offsets":)" + offsets);
};

INSTANTIATE_TEST_SUITE_P(
    Safetensors, RefusedFile,
    testing::Values(
        Refused{"empty header", "", 0, {"does not start with '{'"}},
        Refused{"no object", "[]", 0, {"does not start with '{'"}},
        Refused{"leading space", " {}", 0, {"does not start with '{'"}},
        Refused{"cut JSON", "{\"a\":", 0, {"not valid JSON"}},
        Refused{"two documents", "{}{}", 0, {"not valid JSON"}},
        Refused{"bad UTF-8", "{\"\xff\":1}", 0, {"not valid JSON"}},
        Refused{"zero bytes as padding", std::string("{}\0\0", 4), 0, {"not valid JSON"}},
        Refused{"number beyond double", kShapeF32("[1e999]", "[0,4]"), 4, {"not valid JSON"}},
        Refused{
            "same tensor twice",
            R"({"t":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"t":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})",
            1,
            {"'t' occurs twice"}},
        Refused{"same field twice",
                one(R"("dtype":"U8","dtype":"I8","shape":[1],"data_offsets":[0,1])"),
                1,
                {"'dtype' occurs twice"}},
        Refused{"tensor no object", R"({"t":3})", 0, {"tensor 't'", "found 3", "expected an object"}},
        Refused{"dtype missing",
                one(R"("shape":[1],"data_offsets":[0,1])"),
                1,
                {"tensor 't'", "'dtype' is missing"}},
        Refused{"shape missing", one(R"("dtype":"U8","data_offsets":[0,1])"), 1, {"'shape' is missing"}},
        Refused{"offsets missing", one(R"("dtype":"U8","shape":[1])"), 1, {"'data_offsets' is missing"}},
        Refused{"dtype unknown",
                one(R"("dtype":"F99","shape":[1],"data_offsets":[0,1])"),
                1,
                {"unknown dtype \"F99\""}},
        Refused{"dtype no string",
                one(R"("dtype":32,"shape":[1],"data_offsets":[0,1])"),
                1,
                {"dtype is 32", "expected a string"}},
        Refused{"shape no list", kShapeF32("1", "[0,4]"), 4, {"shape is 1", "expected a list"}},
        Refused{"negative extent", kShapeF32("[-1]", "[0,4]"), 4, {"shape holds -1", "expected an integer"}},
        Refused{
            "fractional extent", kShapeF32("[1.0]", "[0,4]"), 4, {"shape holds 1.0", "expected an integer"}},
        Refused{"extent as text", kShapeF32("[\"1\"]", "[0,4]"), 4, {"shape holds \"1\""}},
        Refused{"extent of 2^63", kShapeF32("[9223372036854775808]", "[0,4]"), 4, {"2^63 - 1"}},
        Refused{"shape product overflows",
                kShapeF32("[4294967296,4294967296]", "[0,4]"),
                4,
                {"larger than 2^63"}},
        Refused{"product overflows to the right size",
                kShapeF32("[2305843009213693952,4]", "[0,0]"),
                0,
                {"larger than 2^63"}},
        Refused{"half a byte",
                one(R"("dtype":"F4","shape":[3],"data_offsets":[0,1])"),
                1,
                {"not a whole number of bytes"}},
        Refused{"shape above length",
                kShapeF32("[2]", "[0,4]"),
                4,
                {"span 4 bytes", "expected 8 for F32 of shape [2]"}},
        Refused{"shape below length", kShapeF32("[1]", "[0,8]"), 8, {"span 8 bytes", "expected 4"}},
        Refused{"three offsets", kShapeF32("[1]", "[0,4,4]"), 4, {"expected [begin, end]"}},
        Refused{"offsets no list", kShapeF32("[1]", "4"), 4, {"expected [begin, end]"}},
        Refused{"offsets backwards", kShapeF32("[1]", "[4,0]"), 4, {"expected begin <= end"}},
        Refused{"negative offset", kShapeF32("[1]", "[-4,0]"), 4, {"data_offsets holds -4"}},
        Refused{"offset past the end", kShapeF32("[1]", "[4,8]"), 4, {"only 4 bytes", "truncated"}},
        Refused{"offset near 2^63",
                kShapeF32("[1]", "[9223372036854775803,9223372036854775807]"),
                4,
                {"only 4 bytes"}},
        Refused{"gap before the first",
                kShapeF32("[1]", "[4,8]"),
                8,
                {"tensor 't'", "begin at 4, expected 0", "gap"}},
        Refused{
            "gap",
            R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"b":{"dtype":"U8","shape":[1],"data_offsets":[2,3]}})",
            3,
            {"tensor 'b'", "begin at 2, expected 1", "gap"}},
        Refused{
            "overlap",
            R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}})",
            3,
            {"tensor 'b'", "begin at 1, expected 2", "overlap"}},
        Refused{
            "shared bytes",
            R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}})",
            2,
            {"overlap"}},
        Refused{"bytes that no tensor has", kShapeF32("[1]", "[0,4]"), 5, {"longer than its header says"}},
        Refused{"data without tensors", "{}", 1, {"longer than its header says"}},
        Refused{"metadata no object", R"({"__metadata__":3})", 0, {"'__metadata__'", "expected an object"}},
        Refused{"metadata no text", R"({"__metadata__":{"a":1}})", 0, {"'a' is 1, expected a string"}}));

TEST(Safetensors, RefusesEveryTruncationAndEveryExtension) {
  const std::string whole = SafetensorsBuilder().add("a", {2}, {1, 2}).add("b", "BF16", {1}, "xy").bytes();
  EXPECT_EQ(parse(whole).size(), 2U);
  for (std::size_t size = 0; size < whole.size(); ++size)
    EXPECT_THROW(static_cast<void>(parse(whole.substr(0, size))), ModelError) << size;
  EXPECT_THROW(static_cast<void>(parse(whole + "z")), ModelError);
}

TEST(Safetensors, RefusesAHeaderAboveTheFormatsLimitWithoutReadingIt) {
  std::string bytes(8, '\0');
  const std::uint64_t length = 100'000'001;
  for (std::size_t i = 0; i < 8; ++i) bytes[i] = static_cast<char>(length >> (8 * i));
  expect_error<ModelError>([&] { static_cast<void>(parse(bytes + "{}")); },
                           {"100000001", "at most 100000000"});
  bytes = std::string(8, '\xff') + "{}";
  expect_error<ModelError>([&] { static_cast<void>(parse(bytes)); }, {"18446744073709551615"});
}

TEST(Safetensors, AnyFlippedByteOfTheHeaderIsReadOrRefusedAndNothingElse) {
  const std::string whole = SafetensorsBuilder().add("ab", {2, 1}, {1, 2}).add("c", "F4", {2}, "x").bytes();
  const RandomKey key{.seed = 7, .use = RandomUse::simulation};
  int refused = 0;
  for (std::uint64_t trial = 0; trial < 3000; ++trial) {
    std::string changed = whole;
    for (std::uint64_t flip = 0; flip <= trial % 3; ++flip) {
      const std::size_t at = random_below(key, 4 * trial + flip, whole.size());
      changed[at] = static_cast<char>(random_bits(key, 100'000 + 4 * trial + flip));
    }
    try {
      for (const TensorEntry& entry : parse(changed)) {
        EXPECT_LE(entry.begin, entry.end);
        EXPECT_LE(entry.end, static_cast<std::int64_t>(changed.size()));
      }
    } catch (const ModelError&) {
      ++refused;
    }
  }
  EXPECT_GT(refused, 1000);
}

TEST(Safetensors, AnOddHeaderGivesUnalignedDataThatReadCorrectly) {
  const test::TemporaryFolder folder;
  const SafetensorsBuilder builder =
      SafetensorsBuilder().add("pad", "U8", {1}, "p").add("v", {2}, {1.5F, -2.0F});
  builder.write(folder.path() / "x.safetensors");
  const SafetensorsFile file(folder.path() / "x.safetensors");
  const TensorEntry* entry = file.find("v");
  ASSERT_NE(entry, nullptr);
  EXPECT_EQ((entry->begin - file.header_bytes()) % 4, 1);
  float values[2] = {};
  widen(*entry->dtype, file.data(*entry).data(), values, 2);
  EXPECT_EQ(values[0], 1.5F);
  EXPECT_EQ(values[1], -2.0F);
}

TEST(Safetensors, FindsTensorsByNameAndReportsSizes) {
  const test::TemporaryFolder folder;
  const auto path = folder.path() / "x.safetensors";
  const SafetensorsBuilder builder =
      SafetensorsBuilder().add("z", {1}, {1}).add("a", {0}, {}).add("m", {1}, {2});
  builder.write(path);
  const SafetensorsFile file(path);
  for (const char* name : {"a", "m", "z"}) {
    ASSERT_NE(file.find(name), nullptr) << name;
    EXPECT_EQ(file.find(name)->name, name);
  }
  for (const char* name : {"", "b", "zz", "__metadata__"}) EXPECT_EQ(file.find(name), nullptr) << name;
  EXPECT_EQ(file.header_bytes(), static_cast<std::int64_t>(8 + builder.header().size()));
  EXPECT_EQ(file.file_bytes(), static_cast<std::int64_t>(std::filesystem::file_size(path)));
  EXPECT_EQ(file.path(), path);
  TensorEntry foreign;
  foreign.end = file.file_bytes() + 1;
  EXPECT_THROW(static_cast<void>(file.data(foreign)), LogicError);
}

TEST(MappedFile, RefusesWhatIsNoRegularFile) {
  const test::TemporaryFolder folder;
  expect_error<ModelError>([&] { MappedFile(folder.path() / "none"); }, {"none", "No such file"});
  expect_error<ModelError>([&] { MappedFile{folder.path()}; }, {"not a regular file"});
  ASSERT_EQ(mkfifo((folder.path() / "pipe").c_str(), 0600), 0);
  expect_error<ModelError>([&] { MappedFile(folder.path() / "pipe"); }, {"pipe", "not a regular file"});
}

TEST(MappedFile, AnEmptyFileHasNoBytesAndAMovedOneKeepsThem) {
  const test::TemporaryFolder folder;
  test::write_file(folder.path() / "empty", "");
  EXPECT_TRUE(MappedFile(folder.path() / "empty").bytes().empty());
  test::write_file(folder.path() / "abc", "abc");
  MappedFile first(folder.path() / "abc");
  MappedFile second(std::move(first));
  EXPECT_TRUE(first.bytes().empty());  // NOLINT: the promise of the move
  ASSERT_EQ(second.bytes().size(), 3U);
  second.will_need(second.bytes());
  second.drop(second.bytes());
  EXPECT_EQ(second.bytes()[2], std::byte{'c'});  // dropped pages come back
  first = std::move(second);
  EXPECT_EQ(first.bytes()[0], std::byte{'a'});
}

}  // namespace
}  // namespace fedspallm::model
