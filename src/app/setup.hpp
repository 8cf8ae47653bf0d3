// SPDX-License-Identifier: Apache-2.0
// Purpose: the backend of this rank, the facts about the run that end in its provenance, and how a process
// leaves a run directory that it has lost.
#pragma once

#include "fedspallm/backend/cuda.hpp"
#include "fedspallm/comm/communicator.hpp"
#include "fedspallm/config/config.hpp"

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace fedspallm::app {

/// Collective. Threads of this rank: `wanted`, or the cores given to it shared with the ranks of this host
/// that have the same cores (binding is left to the launcher).
[[nodiscard]] int threads_of_rank(comm::Communicator& communicator, int wanted);

/// Collective. What to say where the launcher has bound a rank to so few cores that it gets fewer threads
/// than its share of the host's; "" = none is, or run.threads (`wanted`) is set.
[[nodiscard]] std::string bound_tightly(comm::Communicator& communicator, int wanted, int threads);

/// `automatic` is CUDA where the build has it and a device is visible, else the CPU. Ranks of a host take its
/// devices in turn. @throws NotCompiled when CUDA is asked for and this build has none; ConfigError when
/// 16-bit products are asked for that neither a device nor this CPU has
[[nodiscard]] std::unique_ptr<backend::Backend> make_backend(
    config::BackendKind kind, int threads, int node_rank = 0,
    config::Products products = config::Products::f32);
/// Memory of the smallest visible GPU, shared by the ranks of a host that have the same one; 0 without GPUs.
/// @pre ranks_on_host >= 1
[[nodiscard]] std::int64_t gpu_memory_of_rank(const backend::CudaDevices& visible, int ranks_on_host);
/// @throws ConfigError naming the allowed words
[[nodiscard]] config::BackendKind backend_kind(const std::string& word);
[[nodiscard]] config::Products products_kind(const std::string& word);
[[nodiscard]] backend::Products products_of(config::Products products);

/// The GPU that this rank's backend works on; nothing for a CPU.
[[nodiscard]] std::optional<backend::CudaDevice> own_gpu(const comm::Communicator& communicator,
                                                         const backend::Backend& backend);

/// Collective. version, git, mpi, hdf5, backend, kernel set, host, ranks, threads, start time; on rank 0 also
/// which rank works on which GPU, where any does ("gpus").
[[nodiscard]] std::vector<std::pair<std::string, std::string>> facts(comm::Communicator& communicator,
                                                                     const backend::Backend& backend,
                                                                     int threads);

/// For store::RunLock: another job writes in the directory now, and whatever this process would still write
/// could destroy that job's work. Ends it with status `locked`.
[[noreturn]] void leave_directory(const std::string& message);

}  // namespace fedspallm::app
