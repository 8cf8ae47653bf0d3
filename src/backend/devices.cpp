// SPDX-License-Identifier: Apache-2.0
// The part of cuda.hpp that needs no CUDA.
#include "fedspallm/backend/cuda.hpp"
#include "fedspallm/base/error.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <map>

namespace fedspallm::backend {

std::unique_ptr<Backend> make_cuda_backend(int device) {
  return make_cuda_backend(CudaOptions{.device = device});
}

int cuda_device_of_rank(int node_rank, int visible) {
  require(node_rank >= 0 && visible >= 1,
          fmt::format("cuda_device_of_rank: node_rank >= 0 and visible >= 1, found {} and {}", node_rank,
                      visible));
  return node_rank % visible;
}

std::string format_uuid(std::span<const unsigned char> bytes) {
  require(bytes.size() == 16, "format_uuid: 16 bytes");
  std::string text = "GPU";
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    if (i == 0 || i == 4 || i == 6 || i == 8 || i == 10) text += '-';
    text += fmt::format("{:02x}", bytes[i]);
  }
  return text;
}

std::string rank_table(std::span<const RankPlace> places) {
  std::string text;
  std::size_t widest = 0;
  std::map<std::string, std::vector<int>> ranks_of;  // by GPU
  for (const RankPlace& place : places) {
    widest = std::max(widest, place.host.size());
    if (!place.device.empty()) ranks_of[place.device].push_back(place.rank);
  }
  if (ranks_of.empty()) return text;
  for (const RankPlace& place : places)
    text += fmt::format("rank {:<5} {:<{}}  {}\n", place.rank, place.host, widest,
                        place.device.empty() ? "no GPU" : place.device);
  for (const auto& [device, ranks] : ranks_of)
    if (ranks.size() > 1) text += fmt::format("{} is shared by ranks {}\n", device, fmt::join(ranks, ", "));
  return text;
}

}  // namespace fedspallm::backend
