// SPDX-License-Identifier: Apache-2.0
// Purpose: the one place where the result of an MPI call is looked at, and the cast that MPI's int counts
// need. Non-goal: wrapping MPI; callers use its functions directly.
#pragma once

#include "fedspallm/comm/communicator.hpp"

#include <mpi.h>

#include <cstddef>
#include <cstdint>
#include <source_location>

namespace fedspallm::comm {

/// Largest single MPI message. MPI 3.1 counts are int; 1 GiB leaves room and is far above any latency effect.
constexpr std::int64_t kMessageLimit = std::int64_t{1} << 30;

/// @throws PeerError with the function, MPI's text and error class unless `code` is MPI_SUCCESS
void check_mpi(int code, const char* function,
               std::source_location location = std::source_location::current());

/// @throws LogicError when `count` does not fit MPI's int
[[nodiscard]] int checked_count(std::int64_t count,
                                std::source_location location = std::source_location::current());

[[nodiscard]] inline MPI_Comm comm_of(const Communicator& communicator) {
  return *static_cast<const MPI_Comm*>(communicator.handle());
}

}  // namespace fedspallm::comm
