// SPDX-License-Identifier: Apache-2.0
#include "fedspallm/base/error.hpp"
#include "fedspallm/comm/device.hpp"

#include <gmock/gmock.h>

namespace fedspallm::comm {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

RankDevice on_gpu(const char* host, const char* uuid, bool clients = true) {
  return {.host = host, .uuid = uuid, .nccl = 22809, .lacks = "", .clients = clients};
}

TEST(DecideDevice, takes_ranks_with_a_gpu_each) {
  const std::vector<RankDevice> ranks = {on_gpu("a", "GPU-0"), on_gpu("a", "GPU-1"), on_gpu("b", "GPU-2")};
  const DeviceDecision decision = decide_device(ranks);
  EXPECT_TRUE(decision.possible);
  EXPECT_THAT(decision.ranks, ElementsAre(0, 1, 2));
  EXPECT_THAT(decision.reason, HasSubstr("3 ranks"));
}

TEST(DecideDevice, one_rank_is_enough) {
  EXPECT_TRUE(decide_device(std::vector{on_gpu("a", "GPU-0")}).possible);
}

TEST(DecideDevice, the_root_takes_part_without_clients_and_nobody_else_does) {
  const std::vector<RankDevice> ranks = {on_gpu("a", "GPU-0", false), {.host = "a"}, on_gpu("b", "GPU-1")};
  const DeviceDecision decision = decide_device(ranks);
  EXPECT_TRUE(decision.possible) << decision.reason;
  EXPECT_THAT(decision.ranks, ElementsAre(0, 2));
  EXPECT_TRUE(decision.takes_part(2));
  EXPECT_FALSE(decision.takes_part(1));
  EXPECT_FALSE(decision.takes_part(3));
}

TEST(DecideDevice, ranks_that_share_a_gpu_are_named) {
  const std::vector<RankDevice> ranks = {on_gpu("a", "GPU-0"), on_gpu("b", "GPU-1"), on_gpu("b", "GPU-1")};
  const DeviceDecision decision = decide_device(ranks);
  EXPECT_FALSE(decision.possible);
  EXPECT_EQ(decision.reason, "ranks 1, 2 on b share GPU-1");
}

TEST(DecideDevice, a_shared_gpu_of_a_rank_without_clients_does_not_matter) {
  EXPECT_TRUE(decide_device(std::vector{on_gpu("a", "GPU-0"), on_gpu("a", "GPU-0", false)}).possible);
}

TEST(DecideDevice, what_lacks_is_named) {
  std::vector<RankDevice> ranks = {on_gpu("a", ""), on_gpu("b", "GPU-1")};
  EXPECT_EQ(decide_device(ranks).reason, "rank 0 on a, the root, computes on a CPU");
  ranks = {on_gpu("a", "GPU-0"), on_gpu("b", "")};
  EXPECT_EQ(decide_device(ranks).reason, "rank 1 on b computes on a CPU");
  ranks = {on_gpu("a", "GPU-0"), on_gpu("b", "GPU-1")};
  ranks[1].nccl = 0;
  ranks[1].lacks = "libnccl.so.2 cannot be loaded";
  EXPECT_EQ(decide_device(ranks).reason, "rank 1 on b has no NCCL: libnccl.so.2 cannot be loaded");
  ranks[1].nccl = 22700;
  EXPECT_EQ(decide_device(ranks).reason, "rank 1 on b has NCCL 22700, rank 0 has 22809");
  EXPECT_FALSE(decide_device(ranks).possible);
  EXPECT_THROW((void)decide_device({}), LogicError);
}

}  // namespace
}  // namespace fedspallm::comm
