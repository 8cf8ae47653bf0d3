// SPDX-License-Identifier: Apache-2.0
#include "fedspallm/data/hdf5.hpp"

#include "fedspallm/base/error.hpp"

#include <gtest/gtest.h>
#include <hdf5.h>
#include <sys/stat.h>

#include "support/expect_error.hpp"
#include "support/support.hpp"
#include <cstdlib>
#include <fstream>
#include <limits>

#ifdef __SANITIZE_ADDRESS__
// HDF5 1.10.8 loses a buffer of its own when a file cannot be closed on a full disk
// (WritingErrorsAreErrorsOfResources).
extern "C" const char* __lsan_default_suppressions();
extern "C" const char* __lsan_default_suppressions() {
  return "leak:libhdf5_serial";
}
#endif

namespace fedspallm::data::hdf5 {
namespace {

using test::expect_error;

class Hdf5Test : public testing::Test {
 protected:
  [[nodiscard]] std::filesystem::path path(const std::string& name = "x.h5") const {
    return folder_.path() / name;
  }
  /// Lets `fill` write into a new file, by HDF5's own calls where ours cannot make such a file.
  template <class Fill>
  void write(Fill&& fill) const {
    File file = File::create(path());
    fill(file.root());
    file.close();
  }
  template <class Fill>
  void write_raw(Fill&& fill) const {
    const hid_t file = H5Fcreate(path().c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
    fill(file);
    ASSERT_GE(H5Fclose(file), 0);
  }

 private:
  test::TemporaryFolder folder_;
};

/// A dataset made with raw HDF5; nothing is written into it unless `data` is given.
void make_dataset(hid_t file, const char* name, hid_t type, const std::vector<hsize_t>& shape,
                  hid_t properties = H5P_DEFAULT, const void* data = nullptr) {
  const hid_t space = H5Screate_simple(static_cast<int>(shape.size()), shape.data(), nullptr);
  const hid_t dataset = H5Dcreate2(file, name, type, space, H5P_DEFAULT, properties, H5P_DEFAULT);
  if (data != nullptr) H5Dwrite(dataset, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, data);
  H5Dclose(dataset);
  H5Sclose(space);
}

template <class T>
class Hdf5Scalar : public Hdf5Test {};
using Scalars = testing::Types<std::uint8_t, std::byte, std::uint16_t, std::int32_t, std::uint32_t,
                               std::int64_t, std::uint64_t, float, double>;
TYPED_TEST_SUITE(Hdf5Scalar, Scalars);

TYPED_TEST(Hdf5Scalar, ComesBackAsItWasWritten) {
  for (const std::size_t size : {0, 1, 2, 1000}) {
    std::vector<TypeParam> values(size);
    for (std::size_t i = 0; i < size; ++i) values[i] = static_cast<TypeParam>(i % 251);
    this->write([&](const Group& root) {
      root.write("v", values);
      root.write_2d<TypeParam>("m", {static_cast<std::int64_t>(size), 1}, values);
    });
    const File file = File::open(this->path());
    EXPECT_EQ(file.root().template read<TypeParam>("v"), values);
    Matrix2d shape;
    EXPECT_EQ(file.root().template read_2d<TypeParam>("m", shape), values);
    EXPECT_EQ(shape.rows, static_cast<std::int64_t>(size));
    EXPECT_EQ(shape.cols, 1);
  }
}

TEST_F(Hdf5Test, ExtremesOfNumbersSurvive) {
  const std::vector<std::int64_t> integers = {std::numeric_limits<std::int64_t>::min(), -1, 0,
                                              std::numeric_limits<std::int64_t>::max()};
  const std::vector<float> floats = {-0.0F, std::numeric_limits<float>::denorm_min(),
                                     std::numeric_limits<float>::infinity()};
  write([&](const Group& root) {
    root.write("i", integers);
    root.write("f", floats);
  });
  const File file = File::open(path());
  EXPECT_EQ(file.root().read<std::int64_t>("i"), integers);
  EXPECT_EQ(file.root().read<float>("f"), floats);
}

TEST_F(Hdf5Test, GroupsNestAndListTheirNamesSorted) {
  write([](const Group& root) {
    const Group inner = root.create_group("z").create_group("deep");
    inner.write("v", std::vector<std::int32_t>{7});
    EXPECT_EQ(inner.path(), "/z/deep");
    root.write("b", std::vector<std::int32_t>{});
    root.create_group("a");
  });
  const File file = File::open(path());
  EXPECT_EQ(file.root().names(), (std::vector<std::string>{"a", "b", "z"}));
  EXPECT_TRUE(file.root().open_group("a").names().empty());
  EXPECT_TRUE(file.root().contains("z"));
  EXPECT_FALSE(file.root().contains("deep"));
  EXPECT_EQ(file.root().open_group("z").open_group("deep").read<std::int32_t>("v"),
            std::vector<std::int32_t>{7});
}

TEST_F(Hdf5Test, AttributesComeBack) {
  write([](const Group& root) {
    root.write_string("empty", "");
    root.write_string("text", "Jane Austen, \xc3\xa9");
    root.write_string("long", std::string(60000, 'x'));
    root.write_integer("lowest", std::numeric_limits<std::int64_t>::min());
    root.write_double("tenth", 0.1);
  });
  const File file = File::open(path());
  const Group& root = file.root();
  EXPECT_EQ(root.read_string("empty"), "");
  EXPECT_EQ(root.read_string("text"), "Jane Austen, \xc3\xa9");
  EXPECT_EQ(root.read_string("long").size(), 60000U);
  EXPECT_EQ(root.read_integer("lowest"), std::numeric_limits<std::int64_t>::min());
  EXPECT_EQ(root.read_double("tenth"), 0.1);
  EXPECT_TRUE(root.has_attribute("tenth"));
  EXPECT_FALSE(root.has_attribute("none"));
  expect_error<DataError>([&] { static_cast<void>(root.read_string("none")); },
                          {path().string(), "'none'", "missing"});
  expect_error<DataError>([&] { static_cast<void>(root.read_string("tenth")); },
                          {"'tenth'", "float64", "expected string"});
  expect_error<DataError>([&] { static_cast<void>(root.read_integer("text")); },
                          {"'text'", "string", "expected an integer"});
  expect_error<DataError>([&] { static_cast<void>(root.read_double("lowest")); },
                          {"'lowest'", "int64", "expected float64"});
}

TEST_F(Hdf5Test, AttributesOfOtherWritersAreReadOrRefused) {
  write_raw([](hid_t file) {
    const hid_t scalar = H5Screate(H5S_SCALAR);
    const hsize_t two = 2;
    const hid_t pair = H5Screate_simple(1, &two, nullptr);
    const hid_t variable = H5Tcopy(H5T_C_S1);
    H5Tset_size(variable, H5T_VARIABLE);
    const char* text = "h5py writes these";
    const hid_t a = H5Acreate2(file, "variable", variable, scalar, H5P_DEFAULT, H5P_DEFAULT);
    H5Awrite(a, variable, &text);
    H5Aclose(a);
    const hid_t padded = H5Tcopy(H5T_C_S1);
    H5Tset_size(padded, 3);
    H5Tset_strpad(padded, H5T_STR_NULLPAD);
    const hid_t b = H5Acreate2(file, "unterminated", padded, scalar, H5P_DEFAULT, H5P_DEFAULT);
    H5Awrite(b, padded, "abc");
    H5Aclose(b);
    const std::uint64_t large = std::numeric_limits<std::uint64_t>::max();
    const hid_t c = H5Acreate2(file, "large", H5T_STD_U64LE, scalar, H5P_DEFAULT, H5P_DEFAULT);
    H5Awrite(c, H5T_NATIVE_UINT64, &large);
    H5Aclose(c);
    const std::int8_t small = -5;
    const hid_t d = H5Acreate2(file, "small", H5T_STD_I8BE, scalar, H5P_DEFAULT, H5P_DEFAULT);
    H5Awrite(d, H5T_NATIVE_INT8, &small);
    H5Aclose(d);
    H5Aclose(H5Acreate2(file, "pair", H5T_STD_I32LE, pair, H5P_DEFAULT, H5P_DEFAULT));
    H5Tclose(padded);
    H5Tclose(variable);
    H5Sclose(pair);
    H5Sclose(scalar);
  });
  const File file = File::open(path());
  EXPECT_EQ(file.root().read_string("variable"), "h5py writes these");
  EXPECT_EQ(file.root().read_string("unterminated"), "abc");
  EXPECT_EQ(file.root().read_integer("small"), -5);
  expect_error<DataError>([&] { static_cast<void>(file.root().read_integer("large")); },
                          {"'large'", "18446744073709551615", "2^63 - 1"});
  expect_error<DataError>([&] { static_cast<void>(file.root().read_integer("pair")); },
                          {"'pair'", "2 values", "expected one"});
}

TEST_F(Hdf5Test, TextsOfAnyLengthComeBack) {
  const std::string text(300'000, 'c');
  write([&](const Group& root) {
    root.write_text("empty", "");
    root.write_text("config", text);
    root.write("v", std::vector<std::int32_t>{1});
  });
  const File file = File::open(path());
  EXPECT_EQ(file.root().read_text("empty"), "");
  EXPECT_EQ(file.root().read_text("config"), text);
  expect_error<DataError>([&] { static_cast<void>(file.root().read_text("v")); },
                          {"/v", "int32", "expected one string"});
}

TEST_F(Hdf5Test, EqualContentGivesEqualBytes) {
  std::string contents[2];
  for (std::string& content : contents) {
    write([](const Group& root) {
      root.create_group("g").write("v", std::vector<float>(100, 1.0F));
      root.write_text("t", "text");
      root.write_string("a", "b");
    });
    std::ifstream stream(path(), std::ios::binary);
    content.assign(std::istreambuf_iterator<char>(stream), {});
    std::filesystem::remove(path());
    // Time stamps have a resolution of a second; their absence shows without waiting for one: see the next
    // line.
    const hid_t file = (write([](const Group& root) { root.write("v", std::vector<float>{1}); }),
                        H5Fopen(path().c_str(), H5F_ACC_RDONLY, H5P_DEFAULT));
    H5O_info_t info{};
    ASSERT_GE(H5Oget_info_by_name1(file, "v", &info, H5P_DEFAULT), 0);
    EXPECT_EQ(info.mtime, 0);
    H5Fclose(file);
  }
  EXPECT_EQ(contents[0], contents[1]);
  EXPECT_FALSE(contents[0].empty());
}

TEST_F(Hdf5Test, ReadingNamesTypeShapeAndSizeThatDoNotFit) {
  write([](const Group& root) {
    root.write("ints", std::vector<std::int32_t>{1, 2, 3});
    root.write_2d<float>("matrix", {2, 3}, std::vector<float>(6));
    root.create_group("group");
  });
  const File file = File::open(path());
  const Group& root = file.root();
  Matrix2d shape;
  const std::vector<std::pair<std::function<void()>, std::vector<std::string>>> cases = {
      {[&] { static_cast<void>(root.read<float>("ints")); }, {"/ints", "has type int32", "expected float32"}},
      {[&] { static_cast<void>(root.read<std::uint32_t>("ints")); }, {"has type int32", "expected uint32"}},
      {[&] { static_cast<void>(root.read<std::int64_t>("ints")); }, {"has type int32", "expected int64"}},
      {[&] { static_cast<void>(root.read<float>("matrix")); },
       {"/matrix", "shape 2 x 3", "expected 1 dimension"}},
      {[&] { static_cast<void>(root.read_2d<std::int32_t>("ints", shape)); },
       {"shape 3", "expected 2 dimensions"}},
      {[&] { static_cast<void>(root.read<float>("none")); }, {"no dataset 'none'"}},
      {[&] { static_cast<void>(root.read<float>("group")); }, {"/group", "cannot open the dataset"}},
      {[&] { static_cast<void>(root.open_group("none")); }, {"no group 'none'"}},
      {[&] { static_cast<void>(root.open_group("ints")); }, {"/ints", "cannot open the group"}},
  };
  for (const auto& [call, fragments] : cases) {
    auto all = fragments;
    all.push_back(path().string());
    expect_error<DataError>(call, all);
  }
  EXPECT_EQ(root.describe("matrix").type, "float32");
  EXPECT_EQ(root.describe("matrix").shape, (std::vector<std::int64_t>{2, 3}));
}

TEST_F(Hdf5Test, ChunksThatWereNeverWrittenAreNoZeros) {
  write_raw([](hid_t file) {
    const hid_t properties = H5Pcreate(H5P_DATASET_CREATE);
    const hsize_t chunk = 4, first = 0, count = 4;
    H5Pset_chunk(properties, 1, &chunk);
    H5Pset_deflate(properties, 1);
    make_dataset(file, "none", H5T_STD_I32LE, {14}, properties);
    make_dataset(file, "partly", H5T_STD_I32LE, {14}, properties);
    make_dataset(file, "empty", H5T_STD_I32LE, {0}, properties);
    H5Pclose(properties);
    const hid_t dataset = H5Dopen2(file, "partly", H5P_DEFAULT);
    const hid_t space = H5Dget_space(dataset), memory = H5Screate_simple(1, &count, nullptr);
    H5Sselect_hyperslab(space, H5S_SELECT_SET, &first, nullptr, &count, nullptr);
    const std::vector<std::int32_t> values = {1, 2, 3, 4};
    H5Dwrite(dataset, H5T_NATIVE_INT32, memory, space, H5P_DEFAULT, values.data());
    H5Sclose(memory);
    H5Sclose(space);
    H5Dclose(dataset);
  });
  const File file = File::open(path());
  for (const auto& [name, fragment] :
       {std::pair{"none", "the file stores 0"}, std::pair{"partly", "the file stores 1"}})
    expect_error<DataError>([&] { static_cast<void>(file.root().read<std::int32_t>(name)); },
                            {path().string(), name, "needs 4 chunks", fragment});
  EXPECT_TRUE(file.root().read<std::int32_t>("empty").empty());
}

TEST_F(Hdf5Test, FiltersThatHdf5ReadsUnsafelyAreRefused) {
  const std::vector<std::int32_t> values = {1, 2, 3, 4, 5, 6, 7, 8};
  write_raw([&](hid_t file) {
    const auto filtered = [&](const char* name, auto set_filter) {
      const hid_t properties = H5Pcreate(H5P_DATASET_CREATE);
      const hsize_t chunk = 8;
      H5Pset_chunk(properties, 1, &chunk);
      set_filter(properties);
      make_dataset(file, name, H5T_STD_I32LE, {8}, properties, values.data());
      H5Pclose(properties);
    };
    filtered("nbit", [](hid_t p) { H5Pset_nbit(p); });
    filtered("scaleoffset", [](hid_t p) { H5Pset_scaleoffset(p, H5Z_SO_INT, 0); });
    filtered("gzip", [](hid_t p) {
      H5Pset_shuffle(p);
      H5Pset_deflate(p, 4);
      H5Pset_fletcher32(p);
    });
  });
  const File file = File::open(path());
  EXPECT_EQ(file.root().read<std::int32_t>("gzip"), values);
  for (const auto& [name, filter] : {std::pair{"nbit", "filter 5"}, std::pair{"scaleoffset", "filter 6"}})
    expect_error<DataError>([&] { static_cast<void>(file.root().read<std::int32_t>(name)); },
                            {path().string(), name, filter, "expected gzip, shuffle or fletcher32"});
}

TEST_F(Hdf5Test, AShapeThatTheFileDoesNotStoreIsRefusedBeforeMemoryIsTaken) {
  write_raw([](hid_t file) {
    make_dataset(file, "unwritten", H5T_STD_I32LE, {1'000'000'000'000});
    const hid_t chunked = H5Pcreate(H5P_DATASET_CREATE);
    const hsize_t chunk = 1024;
    H5Pset_chunk(chunked, 1, &chunk);
    make_dataset(file, "chunked", H5T_STD_I32LE, {1'000'000'000'000}, chunked);
    const hid_t tiles = H5Pcreate(H5P_DATASET_CREATE);
    const hsize_t tile[2] = {1024, 1024};
    H5Pset_chunk(tiles, 2, tile);
    make_dataset(file, "huge", H5T_STD_I32LE, {std::uint64_t{1} << 40, std::uint64_t{1} << 40}, tiles);
    H5Pclose(tiles);
    H5Pset_deflate(chunked, 9);
    make_dataset(file, "compressed", H5T_STD_I32LE, {1'000'000'000'000}, chunked);
    H5Pclose(chunked);
    const hid_t elsewhere = H5Pcreate(H5P_DATASET_CREATE);
    H5Pset_external(elsewhere, "/etc/passwd", 0, 4096);
    make_dataset(file, "external", H5T_STD_I32LE, {8}, elsewhere);
    H5Pclose(elsewhere);
    make_dataset(file, "cube", H5T_STD_I32LE, {1, 1, 1});
    const hid_t null_space = H5Screate(H5S_NULL);
    H5Dclose(H5Dcreate2(file, "null", H5T_STD_I32LE, null_space, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT));
    H5Sclose(null_space);
    const hid_t scalar = H5Screate(H5S_SCALAR);
    H5Dclose(H5Dcreate2(file, "scalar", H5T_STD_I32LE, scalar, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT));
    H5Sclose(scalar);
  });
  const File file = File::open(path());
  const std::vector<std::pair<const char*, std::string>> cases = {
      {"unwritten", "the file stores 0"},  {"chunked", "the file stores 0"},
      {"compressed", "the file stores 0"}, {"external", "another file"},
      {"cube", "shape 1 x 1 x 1"},         {"null", "is empty"},
      {"scalar", "has shape scalar"},
  };
  for (const auto& [name, fragment] : cases)
    expect_error<DataError>([&] { static_cast<void>(file.root().read<std::int32_t>(name)); },
                            {path().string(), name, fragment});
  Matrix2d shape;
  expect_error<DataError>([&] { static_cast<void>(file.root().read_2d<std::int32_t>("huge", shape)); },
                          {"huge", "more than 2^63"});
}

TEST_F(Hdf5Test, CompressedAndBigEndianDataAreRead) {
  const std::vector<std::int32_t> values(5000, 42);
  write_raw([&](hid_t file) {
    const hid_t properties = H5Pcreate(H5P_DATASET_CREATE);
    const hsize_t chunk = 5000;
    H5Pset_chunk(properties, 1, &chunk);
    H5Pset_deflate(properties, 9);
    make_dataset(file, "compressed", H5T_NATIVE_INT32, {5000}, properties, values.data());
    H5Pclose(properties);
    const std::uint32_t swapped = 0x2A000000;
    make_dataset(file, "swapped", H5T_STD_I32BE, {1}, H5P_DEFAULT, &swapped);
  });
  const File file = File::open(path());
  EXPECT_EQ(file.root().read<std::int32_t>("compressed"), values);
  EXPECT_EQ(file.root().read<std::int32_t>("swapped"), std::vector<std::int32_t>{42});
}

TEST_F(Hdf5Test, TypesAreNamedAsAPersonWouldSayThem) {
  write_raw([](hid_t file) {
    make_dataset(file, "i8", H5T_STD_I8LE, {1});
    make_dataset(file, "f64", H5T_IEEE_F64BE, {1});
    make_dataset(file, "bits", H5T_STD_B16LE, {1});
    const hid_t string = H5Tcopy(H5T_C_S1);
    make_dataset(file, "text", string, {1});
    H5Tclose(string);
    const hid_t compound = H5Tcreate(H5T_COMPOUND, 4);
    H5Tinsert(compound, "re", 0, H5T_NATIVE_INT32);
    make_dataset(file, "pairs", compound, {1});
    H5Tclose(compound);
  });
  const File file = File::open(path());
  for (const auto& [name, type] : std::vector<std::pair<std::string, std::string>>{{"i8", "int8"},
                                                                                   {"f64", "float64"},
                                                                                   {"bits", "bitfield16"},
                                                                                   {"text", "string"},
                                                                                   {"pairs", "compound"}})
    EXPECT_EQ(file.root().describe(name).type, type) << name;
}

TEST_F(Hdf5Test, AnExternalLinkShowsTheOtherFilesContent) {
  write([](const Group& root) { root.write("v", std::vector<std::int32_t>{5}); });
  {
    File file = File::create(path("run.h5"));
    file.root().link_external("block", "x.h5");
    file.root().link_external("gone", "missing.h5");
    file.close();
  }
  const File file = File::open(path("run.h5"));
  EXPECT_TRUE(file.root().contains("gone"));
  EXPECT_EQ(file.root().open_group("block").read<std::int32_t>("v"), std::vector<std::int32_t>{5});
  expect_error<DataError>([&] { static_cast<void>(file.root().open_group("gone")); },
                          {"run.h5", "/gone", "cannot open the group"});
}

TEST_F(Hdf5Test, FilesThatAreNoHdf5AreNamed) {
  expect_error<DataError>([&] { static_cast<void>(File::open(path("none.h5"))); },
                          {"none.h5", "no such file"});
  expect_error<DataError>([&] { static_cast<void>(File::open(path().parent_path())); },
                          {"not a regular file"});
  ASSERT_EQ(mkfifo(path("pipe").c_str(), 0600), 0);
  expect_error<DataError>([&] { static_cast<void>(File::open(path("pipe"))); },
                          {"pipe", "not a regular file"});
  std::ofstream(path("text.h5")) << "some text";
  std::ofstream(path("empty.h5")).close();
  for (const char* name : {"text.h5", "empty.h5"})
    expect_error<DataError>([&] { static_cast<void>(File::open(path(name))); },
                            {name, "cannot be opened as an HDF5 file"});
}

TEST_F(Hdf5Test, ATruncatedFileIsRefusedOnOpening) {
  write([](const Group& root) { root.write("v", std::vector<std::int32_t>(10'000, 1)); });
  const auto size = std::filesystem::file_size(path());
  for (const auto kept : {size / 4, size / 2, size - 1}) {
    std::filesystem::resize_file(path(), kept);
    expect_error<DataError>([&] { static_cast<void>(File::open(path())); }, {path().string(), "truncated"});
    std::filesystem::resize_file(path(), 0);
    write([](const Group& root) { root.write("v", std::vector<std::int32_t>(10'000, 1)); });
  }
}

TEST_F(Hdf5Test, WritingErrorsAreErrorsOfResources) {
  expect_error<ResourceError>([&] { static_cast<void>(File::create(path("no/folder/x.h5"))); },
                              {"no/folder/x.h5", "cannot be created"});
  File file = File::create(path());
  file.root().write("v", std::vector<std::int32_t>{1});
  expect_error<ResourceError>([&] { file.root().write("v", std::vector<std::int32_t>{1}); },
                              {path().string(), "/v", "cannot create the dataset"});
  file.close();
  file.close();  // a second time does nothing
  if (std::filesystem::exists("/dev/full")) {
    expect_error<ResourceError>(
        [] {
          File full = File::create("/dev/full");
          full.root().write("v", std::vector<std::int32_t>(100'000, 1));
          full.close();
        },
        {"/dev/full"});
  }
}

TEST_F(Hdf5Test, BrokenPreconditionsAreReported) {
  const File file = File::create(path());
  const Group& root = file.root();
  for (const char* name : {"", ".", "a/b", "/a"}) {
    EXPECT_THROW(static_cast<void>(root.contains(name)), LogicError) << name;
    EXPECT_THROW(root.write(name, std::vector<float>{}), LogicError) << name;
  }
  EXPECT_THROW(root.write_2d<float>("m", {2, 2}, std::vector<float>(3)), LogicError);
  EXPECT_THROW(root.write_2d<float>("m", {-1, -1}, std::vector<float>(1)), LogicError);
  EXPECT_THROW(
      root.write_2d<float>("m", {std::int64_t{1} << 40, std::int64_t{1} << 40}, std::vector<float>()),
      LogicError);
  EXPECT_THROW(root.write_string("a", std::string(60001, 'x')), LogicError);
  EXPECT_THROW(root.write_string("a", std::string("\0", 1)), LogicError);
  EXPECT_THROW(root.write_text("t", std::string("\0", 1)), LogicError);
}

TEST_F(Hdf5Test, AFileInUseByAWriterCanBeReadBecauseNothingIsLocked) {
  if (std::getenv("HDF5_USE_FILE_LOCKING") != nullptr) GTEST_SKIP() << "the environment decides about locks";
  write([](const Group& root) { root.write("v", std::vector<std::int32_t>{1}); });
  const File one = File::open(path());
  const File two = File::open(path());
  EXPECT_EQ(two.root().read<std::int32_t>("v"), std::vector<std::int32_t>{1});
}

TEST(Hdf5, TellsItsVersion) {
  EXPECT_EQ(library_version().substr(0, 5), "HDF5 ");
}

}  // namespace
}  // namespace fedspallm::data::hdf5
