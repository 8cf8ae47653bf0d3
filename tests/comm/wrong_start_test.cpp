// SPDX-License-Identifier: Apache-2.0
// A wrong start is recognized from the launcher's environment alone (rulings.md 26).
#include "fedspallm/comm/communicator.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>

namespace fedspallm::comm {
namespace {

using testing::HasSubstr;
using Environment = std::map<std::string, std::string>;

std::optional<std::string> start(int world_size, const Environment& environment) {
  return wrong_start(world_size, [&](const char* name) -> const char* {
    const auto found = environment.find(name);
    return found == environment.end() ? nullptr : found->second.c_str();
  });
}

TEST(WrongStart, NoLauncherIsFine) {
  EXPECT_EQ(start(1, {}), std::nullopt);
}

TEST(WrongStart, AgreeingLaunchersAreFine) {
  EXPECT_EQ(start(1, {{"OMPI_COMM_WORLD_SIZE", "1"}}), std::nullopt);
  EXPECT_EQ(start(4, {{"OMPI_COMM_WORLD_SIZE", "4"}}), std::nullopt);
  EXPECT_EQ(start(4, {{"SLURM_STEP_NUM_TASKS", "4"}, {"SLURM_PROCID", "3"}}), std::nullopt);
  EXPECT_EQ(start(1, {{"SLURM_STEP_NUM_TASKS", "1"}, {"SLURM_PROCID", "0"}}), std::nullopt);
}

TEST(WrongStart, AnotherLibrarysMpirunIsNamedWithTheCommandToUse) {
  const auto message = start(1, {{"OMPI_COMM_WORLD_SIZE", "4"}});
  ASSERT_TRUE(message.has_value());
  EXPECT_THAT(*message, HasSubstr("OMPI_COMM_WORLD_SIZE=4"));
  EXPECT_THAT(*message, HasSubstr("world of 1"));
  EXPECT_THAT(*message, HasSubstr("mpirun -np 4 fedspallm"));
}

TEST(WrongStart, PlainSrunIsNamedWithTheCommandToUse) {
  const auto message = start(1, {{"SLURM_STEP_NUM_TASKS", "8"}, {"SLURM_PROCID", "0"}});
  ASSERT_TRUE(message.has_value());
  EXPECT_THAT(*message, HasSubstr("SLURM_STEP_NUM_TASKS=8"));
  EXPECT_THAT(*message, HasSubstr("srun --mpi=pmix -n 8 fedspallm"));
}

TEST(WrongStart, AHigherTaskInAWorldOfOneIsWrong) {
  EXPECT_TRUE(start(1, {{"SLURM_PROCID", "2"}}).has_value());
  EXPECT_EQ(start(1, {{"SLURM_PROCID", "0"}}), std::nullopt);
  EXPECT_EQ(start(3, {{"SLURM_PROCID", "2"}}), std::nullopt);
}

TEST(WrongStart, MpirunInsideASlurmStepIsJudgedByMpirunAlone) {
  // sbatch + mpirun: the batch step has one task, mpirun starts four ranks.
  EXPECT_EQ(start(4, {{"OMPI_COMM_WORLD_SIZE", "4"}, {"SLURM_STEP_NUM_TASKS", "1"}, {"SLURM_PROCID", "0"}}),
            std::nullopt);
}

TEST(WrongStart, SlurmsAllocationSizeProvesNothing) {
  EXPECT_EQ(start(1, {{"SLURM_NTASKS", "16"}}), std::nullopt);
}

TEST(WrongStart, ValuesThatAreNoNumbersAreIgnored) {
  EXPECT_EQ(start(1, {{"OMPI_COMM_WORLD_SIZE", ""}}), std::nullopt);
  EXPECT_EQ(start(1, {{"OMPI_COMM_WORLD_SIZE", "four"}}), std::nullopt);
  EXPECT_EQ(start(1, {{"SLURM_STEP_NUM_TASKS", "2(x2)"}}), std::nullopt);
}

}  // namespace
}  // namespace fedspallm::comm
