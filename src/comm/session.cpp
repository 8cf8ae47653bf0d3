// SPDX-License-Identifier: Apache-2.0
// MPI's own life, and the check that the launcher and the library agree on who is in the world.
#include "fedspallm/comm/communicator.hpp"
#include "fedspallm/comm/start.hpp"

#include <mpi.h>
#include <unistd.h>

#include "mpi_check.hpp"
#include <array>
#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace fedspallm::comm {

namespace {

/// The variable's value as a number; nothing when it is unset or not a number.
std::optional<int> number_of(const std::function<const char*(const char*)>& getenv, const char* name) {
  const char* text = getenv(name);
  if (text == nullptr || *text == '\0') return std::nullopt;
  int value = 0;
  const char* end = text + std::strlen(text);
  const auto result = std::from_chars(text, end, value);
  if (result.ec != std::errc() || result.ptr != end) return std::nullopt;
  return value;
}

std::string mismatch(const char* variable, int launched, int world_size) {
  return fmt::format(
      "started wrongly: the launcher started {} ranks ({}={}), but MPI sees a world of {}. Launcher and MPI "
      "library do "
      "not belong together. ",
      launched, variable, launched, world_size);
}

std::string advice(int ranks) {
  return fmt::format(
      "Use the mpirun of the Open MPI that this program is linked with: mpirun -np {} fedspallm ... ; inside "
      "a Slurm "
      "job: mpirun fedspallm ... , or srun --mpi=pmix -n {} fedspallm ... (plain srun and --mpi=pmi2 do not "
      "work).",
      ranks, ranks);
}

/// All that the library says about itself; allowed before MPI_Init.
std::string library_text() {
  std::array<char, MPI_MAX_LIBRARY_VERSION_STRING> text{};
  int length = 0;
  check_mpi(MPI_Get_library_version(text.data(), &length), "MPI_Get_library_version");
  return {text.data(), static_cast<std::size_t>(length)};
}

}  // namespace

std::optional<std::string> hopeless_start(std::string_view library,
                                          const std::function<const char*(const char*)>& getenv) {
  const bool pmix_only =
      library.starts_with("Open MPI v4") && library.find("Debian") != std::string_view::npos;
  const auto tasks = number_of(getenv, "SLURM_STEP_NUM_TASKS");
  if (!pmix_only || !tasks || getenv("PMIX_RANK") != nullptr || getenv("OMPI_COMM_WORLD_SIZE") != nullptr)
    return std::nullopt;
  return fmt::format(
             "started wrongly: this is a task of a Slurm step (SLURM_STEP_NUM_TASKS={}) without PMIx, "
             "and this Open MPI speaks nothing else. ",
             *tasks) +
         advice(*tasks);
}

bool speaks_for_all(const std::function<const char*(const char*)>& getenv) {
  const bool step = getenv("SLURM_STEP_NUM_TASKS") != nullptr;
  return number_of(getenv, step ? "SLURM_PROCID" : "OMPI_COMM_WORLD_RANK").value_or(0) == 0;
}

std::optional<std::string> wrong_start(int world_size,
                                       const std::function<const char*(const char*)>& getenv) {
  if (const auto launched = number_of(getenv, "OMPI_COMM_WORLD_SIZE")) {
    if (*launched == world_size) return std::nullopt;
    return mismatch("OMPI_COMM_WORLD_SIZE", *launched, world_size) + advice(*launched);
  }
  if (const auto tasks = number_of(getenv, "SLURM_STEP_NUM_TASKS"); tasks && *tasks != world_size) {
    return mismatch("SLURM_STEP_NUM_TASKS", *tasks, world_size) + advice(*tasks);
  }
  if (const auto task = number_of(getenv, "SLURM_PROCID"); task && *task > 0 && world_size == 1) {
    return fmt::format(
               "started wrongly: this is task {} of a Slurm step (SLURM_PROCID), but MPI sees a world of 1, "
               "so every "
               "task would do the whole work alone. ",
               *task) +
           advice(*task + 1);
  }
  return std::nullopt;
}

MpiSession::MpiSession(int& argc, char**& argv) {
  const auto variable = [](const char* name) { return std::getenv(name); };
  if (const auto problem = hopeless_start(library_text(), variable)) throw LaunchError(*problem);
  int provided = MPI_THREAD_SINGLE;
  check_mpi(MPI_Init_thread(&argc, &argv, MPI_THREAD_SERIALIZED, &provided), "MPI_Init_thread");
  check_mpi(MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
  int size = 1;
  check_mpi(MPI_Comm_size(MPI_COMM_WORLD, &size), "MPI_Comm_size");
  std::optional<std::string> problem = wrong_start(size, variable);
  if (!problem && provided < MPI_THREAD_SERIALIZED) {
    problem = fmt::format(
        "this MPI library ({}) gives thread level {} only; MPI_THREAD_SERIALIZED ({}) is needed. Use one "
        "built with "
        "thread support, e.g. Debian's libopenmpi3.",
        library_version(), provided, static_cast<int>(MPI_THREAD_SERIALIZED));
  }
  if (problem) {
    MPI_Finalize();
    throw LaunchError(*problem);
  }
}

MpiSession::~MpiSession() {
  MPI_Finalize();
}

void MpiSession::abort(ExitStatus status) {
  std::fflush(nullptr);
  MPI_Abort(MPI_COMM_WORLD, static_cast<int>(status));
  ::_exit(static_cast<int>(status));  // it does not return
}

std::string MpiSession::library_version() {
  const std::string whole = library_text();
  return whole.substr(0, whole.find_first_of(",\n"));  // "Open MPI v4.1.4, package: ..." -> its first part
}

}  // namespace fedspallm::comm
