// SPDX-License-Identifier: Apache-2.0
// model.fspm from strangers: damage and hostile headers end in DataError naming the file, and nothing is left
// behind.
#include "fedspallm/base/hash.hpp"

#include <nlohmann/json.hpp>

#include "store/bitmask_layout.hpp"
#include "store_support.hpp"
#include <cstring>
#include <functional>

namespace fedspallm::store::test {
namespace {

using Json = nlohmann::ordered_json;

class Bitmask : public testing::Test {
 protected:
  void SetUp() override {
    fedspallm::test::write_tiny_model(folder.path() / "in", fedspallm::test::kTinyLlama);
    const model::ModelDirectory model(folder.path() / "in");
    const RunPaths paths{folder.path() / "run"};
    BlockStore store = BlockStore::of_run(paths);
    store.write_block(pruned_block(model, 0, DType::f32));
    store.write_links(provenance_of(model), true);
    export_run(paths.dir, folder.path() / "packed", ExportFormat::bitmask, std::nullopt, std::nullopt);
    good = read_file(file);
  }
  void expect_refused(const std::string& fragment) const {
    expect_error<DataError>([&] { unpack_bitmask(file, std::nullopt, out); }, {file.string(), fragment});
    EXPECT_FALSE(fs::exists(out));
    EXPECT_FALSE(fs::exists(out.string() + ".part"));
  }
  /// Writes the file with a changed header, all checksums of which are right.
  void with_header(const std::function<void(Json&)>& change) const {
    Preamble preamble{};
    std::memcpy(preamble.data(), good.data(), sizeof(preamble));
    Json json = Json::parse(good.substr(preamble[kHeaderOffset], preamble[kHeaderBytes]));
    change(json);
    const std::string header = json.dump();
    preamble[kHeaderBytes] = header.size();
    preamble[kHeaderChecksum] = checksum(fedspallm::test::as_bytes(header));
    preamble[kFileBytes] = preamble[kHeaderOffset] + header.size();
    preamble[kPreambleChecksum] = checksum(std::as_bytes(std::span(preamble).first(kPreambleChecksum)));
    std::string bytes = good.substr(0, preamble[kHeaderOffset]) + header;
    std::memcpy(bytes.data(), preamble.data(), sizeof(preamble));
    write_file(file, bytes);
  }

  TemporaryFolder folder;
  fs::path file = folder.path() / "packed" / "model.fspm";
  fs::path out = folder.path() / "out";
  std::string good;
};

/// The first segment of a kind in the file of weights.
Json& segment_of(Json& header, const std::string& kind) {
  for (Json& file : header["files"])
    for (Json& segment : file["segments"])
      if (segment["kind"] == kind && file["name"] == "model.safetensors") return segment;
  throw std::runtime_error("no segment of kind " + kind);
}

Json largest_raw_segment(const Json& header) {
  Json largest;
  for (const Json& file : header["files"])
    for (const Json& segment : file["segments"])
      if (segment["kind"] == "raw" && (largest.is_null() || segment["bytes"] > largest["bytes"]))
        largest = segment;
  return largest;
}

TEST_F(Bitmask, FindsEveryFlippedBit) {
  for (std::size_t offset = 0; offset < good.size(); offset += offset < 64 ? 1 : 149) {
    if (offset >= 40 && offset < 56)
      continue;  // zeros that nothing reads; their checksum finds them all the same
    flip_bit(file, offset, static_cast<int>(offset % 8));
    EXPECT_THROW(unpack_bitmask(file, std::nullopt, out), DataError) << offset;
    write_file(file, good);
  }
  EXPECT_NO_THROW(unpack_bitmask(file, std::nullopt, out));
}

TEST_F(Bitmask, FindsTruncationAndTrailingBytes) {
  for (const std::size_t size :
       {std::size_t{1}, std::size_t{63}, std::size_t{64}, good.size() / 2, good.size() - 1}) {
    write_file(file, good.substr(0, size));
    expect_refused("bytes");
  }
  write_file(file, good + "x");
  expect_refused("torn");
  write_file(file, "");
  EXPECT_THROW(unpack_bitmask(file, std::nullopt, out), DataError);
  fs::remove(file);
  EXPECT_THROW(unpack_bitmask(file, std::nullopt, out), DataError);
  EXPECT_FALSE(fs::exists(out));
}

struct Hostile {
  const char* title;
  std::function<void(Json&)> change;
  std::string fragment;
};

void PrintTo(const Hostile& value, std::ostream* stream) {
  *stream << value.title;
}

class HostileHeader : public Bitmask, public testing::WithParamInterface<Hostile> {};

TEST_P(HostileHeader, IsRefused) {
  with_header(GetParam().change);
  expect_refused(GetParam().fragment);
  EXPECT_EQ(names_in(folder.path()), (std::vector<std::string>{"in", "packed", "run"}));
}

auto in_segment(const char* kind, const char* key, Json value) {
  return [=](Json& header) { segment_of(header, kind)[key] = value; };
}

const std::vector<Hostile> kHostile = {
    {"name_with_folders", [](Json& h) { h["files"][0]["name"] = "../../etc/x"; }, "without folders"},
    {"name_absolute", [](Json& h) { h["files"][0]["name"] = "/tmp/x"; }, "without folders"},
    {"name_dots", [](Json& h) { h["files"][0]["name"] = ".."; }, "without folders"},
    {"name_empty", [](Json& h) { h["files"][0]["name"] = ""; }, "without folders"},
    {"name_with_zero_byte", [](Json& h) { h["files"][0]["name"] = std::string("a\0b", 3); },
     "without folders"},
    {"name_too_long", [](Json& h) { h["files"][0]["name"] = std::string(256, 'a'); }, "at most 255 bytes"},
    {"name_twice", [](Json& h) { h["files"][1]["name"] = h["files"][0]["name"]; }, "occurs twice"},
    {"name_is_a_number", [](Json& h) { h["files"][0]["name"] = 3; }, "malformed header"},
    {"no_files", [](Json& h) { h.erase("files"); }, "malformed header"},
    {"other_kind", [](Json& h) { h["kind"] = "x"; }, "kind"},
    {"other_version", [](Json& h) { h["format_version"] = 2; }, "format_version"},
    {"huge_file",
     [](Json& h) {
       h["files"][0]["bytes"] = std::int64_t{1} << 62;
       h["files"][1]["bytes"] = std::int64_t{1} << 62;
     },
     "2^63"},
    {"negative_bytes", [](Json& h) { h["files"][0]["bytes"] = -1; }, "expected an integer"},
    {"bytes_with_a_fraction", [](Json& h) { h["files"][0]["bytes"] = 1.5; }, "'bytes' is 1.5"},
    {"bytes_far_too_large", [](Json& h) { h["files"][0]["bytes"] = 1e300; }, "expected an integer"},
    {"bytes_true", [](Json& h) { h["files"][0]["bytes"] = true; }, "'bytes' is boolean"},
    {"nested_too_deeply",
     [](Json& h) {
       Json deep = Json::array();
       for (int i = 0; i < 200; ++i) deep = Json::array({deep});
       h["more"] = deep;
     },
     "100 deep"},
    {"other_bytes_of_a_file", [](Json& h) { h["files"][0]["bytes"] = 5; }, "expected 5"},
    {"other_bytes_of_a_segment", in_segment("raw", "bytes", 5), "expected 5"},
    {"unknown_segment", in_segment("raw", "kind", "zip"), "expected raw, widen or bitmask"},
    {"offset_beyond", [](Json& h) { segment_of(h, "raw")["data"]["offset"] = 1 << 30; }, "beyond"},
    {"length_beyond", [](Json& h) { segment_of(h, "raw")["data"]["stored"] = std::int64_t{1} << 62; },
     "beyond"},
    {"offset_negative", [](Json& h) { segment_of(h, "raw")["data"]["offset"] = -1; }, "expected an integer"},
    {"checksum_no_hex", [](Json& h) { segment_of(h, "raw")["data"]["xxh3"] = "zz"; }, "hexadecimal"},
    {"checksum_other", [](Json& h) { segment_of(h, "raw")["data"]["xxh3"] = "0123456789abcdef"; }, "damaged"},
    {"rows_beyond", in_segment("bitmask", "rows", std::int64_t{1} << 61), "2^48"},
    {"rows_other", in_segment("bitmask", "rows", 64), "expected 64"},
    {"kept_other", in_segment("bitmask", "kept", 3), "mask keeps"},
    {"dtype_other", in_segment("bitmask", "dtype", "float16"), "bytes of values"},
    {"dtype_unknown", in_segment("bitmask", "dtype", "int4"), "int4"},
    {"mask_from_elsewhere",
     [](Json& h) {
       Json& s = segment_of(h, "bitmask");
       s["mask"] = s["values"];
     },
     "mask of"},
    {"many_segments_of_the_same_bytes",
     [](Json& h) {
       const Json raw = largest_raw_segment(h);
       for (Json& file : h["files"])
         if (file["name"] == "model.safetensors")
           for (int i = 0; i < 1000; ++i) file["segments"].push_back(raw);
     },
     "segments of more bytes than the file's"},
    {"widen_of_float32",
     [](Json& h) {
       Json& s = segment_of(h, "raw");
       s["kind"] = "widen";
       s["dtype"] = "float32";
     },
     "expected float16 or bfloat16"},
    {"widen_of_odd_bytes",
     [](Json& h) {
       Json& s = segment_of(h, "raw");
       s["kind"] = "widen";
       s["dtype"] = "float16";
       s["data"]["stored"] = 3;
       s["data"]["xxh3"] = "0";
     },
     "hexadecimal"},
};

INSTANTIATE_TEST_SUITE_P(Headers, HostileHeader, testing::ValuesIn(kHostile),
                         [](const auto& test) { return std::string(test.param.title); });

TEST_F(Bitmask, TheUnchangedHeaderIsGood) {
  with_header([](Json&) {});
  EXPECT_NO_THROW(unpack_bitmask(file, std::nullopt, out));
}

}  // namespace
}  // namespace fedspallm::store::test
