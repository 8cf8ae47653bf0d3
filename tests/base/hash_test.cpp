// SPDX-License-Identifier: Apache-2.0
#include "fedspallm/base/hash.hpp"

#include "fedspallm/base/error.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "support/support.hpp"
#include <fstream>
#include <string>
#include <string_view>

namespace fedspallm {
namespace {

std::span<const std::byte> bytes_of(std::string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

TEST(Sha256, GivesThePublishedDigests) {  // FIPS 180-4 examples
  EXPECT_EQ(sha256(bytes_of("")), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(sha256(bytes_of("abc")), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(sha256(bytes_of("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq")),
            "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  EXPECT_EQ(sha256(bytes_of(std::string(1000000, 'a'))),
            "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

TEST(Checksum, IsXxh3Of64Bits) {  // values of the reference implementation, seed 0
  EXPECT_EQ(checksum(bytes_of("")), 0x2d06800538d394c2U);
  EXPECT_EQ(checksum(bytes_of("a")), 0xe6c632b61e964e1fU);
  EXPECT_EQ(checksum(bytes_of("abc")), 0x78af5f94892f3950U);
}

TEST(HashesOfFiles, EqualThoseOfTheirBytesOverManyChunks) {
  const test::TemporaryFolder folder;
  for (const std::size_t size :
       {std::size_t{0}, std::size_t{1}, std::size_t{1} << 20, (std::size_t{5} << 19) + 3}) {
    std::string content(size, '\0');
    for (std::size_t i = 0; i < size; ++i) content[i] = static_cast<char>(i * 131 + i / 977);
    const auto path = folder.path() / "file";
    std::ofstream(path, std::ios::binary) << content;
    EXPECT_EQ(sha256_of_file(path), sha256(bytes_of(content)));
    EXPECT_EQ(checksum_of_file(path), checksum(bytes_of(content)));
  }
}

TEST(HashesOfFiles, AMissingFileIsNamed) {
  const test::TemporaryFolder folder;
  const auto path = folder.path() / "missing";
  EXPECT_THROW((void)checksum_of_file(path), ResourceError);
  try {
    (void)sha256_of_file(path);
    FAIL() << "accepted";
  } catch (const ResourceError& error) {
    EXPECT_THAT(error.what(), ::testing::HasSubstr(path.string()));
  }
}

}  // namespace
}  // namespace fedspallm
