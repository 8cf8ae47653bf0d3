// SPDX-License-Identifier: Apache-2.0
// Purpose: what the launcher's environment says about a start before MPI_Init. Plain functions, so that they
// are tested without a launcher. Non-goals: judging a start after MPI_Init (wrong_start of communicator.hpp).
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <string_view>

namespace fedspallm::comm {

/// A start that `library` (MPI_Get_library_version) would end itself with status 1 and a page about its
/// build; the message says what to do instead. Debian's Open MPI 4 knows PMIx only, so a Slurm step without
/// it cannot work.
[[nodiscard]] std::optional<std::string> hopeless_start(
    std::string_view library, const std::function<const char*(const char*)>& getenv);

/// Whether this process is the one, of those that the launcher started, that says what is wrong with the
/// start.
[[nodiscard]] bool speaks_for_all(const std::function<const char*(const char*)>& getenv);

}  // namespace fedspallm::comm
