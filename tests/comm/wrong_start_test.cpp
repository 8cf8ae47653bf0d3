// SPDX-License-Identifier: Apache-2.0
// A wrong start is recognized from the launcher's environment alone (rulings.md 26).
#include "fedspallm/comm/communicator.hpp"
#include "fedspallm/comm/start.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>

namespace fedspallm::comm {
namespace {

using testing::HasSubstr;
using Environment = std::map<std::string, std::string>;

std::function<const char*(const char*)> lookup(const Environment& environment) {
  return [&](const char* name) -> const char* {
    const auto found = environment.find(name);
    return found == environment.end() ? nullptr : found->second.c_str();
  };
}

std::optional<std::string> start(int world_size, const Environment& environment) {
  return wrong_start(world_size, lookup(environment));
}

constexpr const char* kDebian = "Open MPI v4.1.4, package: Debian OpenMPI, ident: 4.1.4";

bool hopeless(const char* library, const Environment& environment) {
  return hopeless_start(library, lookup(environment)).has_value();
}

TEST(HopelessStart, ASlurmStepWithoutPmixUnderDebiansOpenMpi) {
  const Environment step = {{"SLURM_STEP_NUM_TASKS", "2"}, {"SLURM_PROCID", "1"}};
  const auto message = hopeless_start(kDebian, lookup(step));
  ASSERT_TRUE(message.has_value());
  EXPECT_THAT(*message, HasSubstr("SLURM_STEP_NUM_TASKS=2"));
  EXPECT_THAT(*message, HasSubstr("srun --mpi=pmix -n 2 fedspallm"));
  EXPECT_TRUE(hopeless(kDebian, {{"SLURM_STEP_NUM_TASKS", "2"}, {"PMI_RANK", "0"}}));  // --mpi=pmi2
}

TEST(HopelessStart, WhatMayWorkIsTried) {
  EXPECT_FALSE(hopeless(kDebian, {}));
  EXPECT_FALSE(hopeless(kDebian, {{"SLURM_PROCID", "0"}, {"SLURM_NTASKS", "4"}}));  // a batch script
  EXPECT_FALSE(hopeless(kDebian, {{"SLURM_STEP_NUM_TASKS", "2"}, {"PMIX_RANK", "0"}}));
  EXPECT_FALSE(hopeless(kDebian, {{"SLURM_STEP_NUM_TASKS", "1"}, {"OMPI_COMM_WORLD_SIZE", "4"}}));
  // A cluster's own build may know PMI-1 or PMI-2, and Open MPI 5 starts a world of 1, which is seen then.
  EXPECT_FALSE(
      hopeless("Open MPI v4.0.7, package: Open MPI builder@cluster", {{"SLURM_STEP_NUM_TASKS", "2"}}));
  EXPECT_FALSE(hopeless("Open MPI v5.0.7, package: Debian OpenMPI", {{"SLURM_STEP_NUM_TASKS", "2"}}));
}

TEST(WrongStart, OneProcessSpeaks) {
  const auto speaks = [](const Environment& environment) { return speaks_for_all(lookup(environment)); };
  EXPECT_TRUE(speaks({}));
  EXPECT_TRUE(speaks({{"SLURM_STEP_NUM_TASKS", "2"}, {"SLURM_PROCID", "0"}}));
  EXPECT_FALSE(speaks({{"SLURM_STEP_NUM_TASKS", "2"}, {"SLURM_PROCID", "1"}}));
  EXPECT_FALSE(speaks({{"OMPI_COMM_WORLD_RANK", "3"}}));
  EXPECT_TRUE(speaks({{"SLURM_PROCID", "2"}}));  // task 0 of that unknown step may do well
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
