// SPDX-License-Identifier: Apache-2.0
// The merge of three pruned clients against golden results computed in PyTorch (fp64 mean, rounded once to
// fp32).
#include "fedspallm/aggregate/merge.hpp"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "support/support.hpp"
#include "wire/random_matrix.hpp"
#include <algorithm>
#include <cstring>
#include <fstream>

namespace fedspallm::aggregate {
namespace {

/// A safetensors file, read whole; as little of a reader as this test needs.
class GoldenFile {
 public:
  explicit GoldenFile(const std::filesystem::path& path) {
    std::ifstream file(path, std::ios::binary);
    bytes_.assign(std::istreambuf_iterator<char>(file), {});
    std::uint64_t length = 0;
    if (bytes_.size() < 8) return;
    std::memcpy(&length, bytes_.data(), 8);
    header_ = nlohmann::json::parse(bytes_.substr(8, length));
    data_ = 8 + length;
  }
  [[nodiscard]] const nlohmann::json& header() const { return header_; }
  template <class Element>
  [[nodiscard]] std::vector<Element> values(const std::string& name) const {
    const auto& offsets = header_.at(name).at("data_offsets");
    const std::uint64_t begin = offsets.at(0), end = offsets.at(1);
    std::vector<Element> values((end - begin) / sizeof(Element));
    std::memcpy(values.data(), bytes_.data() + data_ + begin, end - begin);
    return values;
  }

 private:
  std::string bytes_;
  nlohmann::json header_;
  std::uint64_t data_ = 0;
};

TEST(Fixtures, MergedWeightsAndVotesAreTheGoldenOnes) {
  const GoldenFile golden(test::data_path("fixtures/llama-gqa-tied/expected.safetensors"));
  int matrices = 0;
  for (const auto& [key, entry] : golden.header().items()) {
    if (!key.starts_with("l0.")) continue;
    const std::string matrix_name = key.substr(3);
    const std::int64_t rows = entry.at("shape").at(0), cols = entry.at("shape").at(1);
    std::vector<wire::PackedMatrix> clients;
    float largest = 0;
    for (int client = 0; client < 3; ++client) {
      const auto dense = golden.values<float>("sparsegpt50." + std::to_string(client) + "." + matrix_name);
      std::vector<std::uint8_t> kept;  // the fixtures hold no kept zeros: their masks are their zeros
      for (const float value : dense) kept.push_back(value != 0 ? 1 : 0);
      clients.push_back(wire::pack(rows, cols, DType::f32, dense, kept));
      largest = std::max(largest, largest_magnitude(clients.back()));
    }
    PartialMerge merge(rows, cols, FixedPoint::covering(largest, 3), {});
    for (const auto& client : clients) merge.add(client);
    const MergedMatrix found = finish(merge, 3, {.expand = false}, DType::f32, {});
    std::vector<float> dense(static_cast<std::size_t>(rows * cols));
    unpack(found.matrix, dense);
    EXPECT_EQ(dense, golden.values<float>(key)) << key;
    const auto votes =
        golden.values<std::uint8_t>("votes." + matrix_name);  // clients that dropped the weight
    EXPECT_TRUE(std::ranges::equal(found.votes, votes)) << key;
    ++matrices;
  }
  EXPECT_GE(matrices, 5);
}

}  // namespace
}  // namespace fedspallm::aggregate
