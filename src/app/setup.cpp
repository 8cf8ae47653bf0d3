// SPDX-License-Identifier: Apache-2.0
#include "setup.hpp"

#include "fedspallm/base/error.hpp"
#include "fedspallm/base/rounding.hpp"
#include "fedspallm/data/hdf5.hpp"
#include "fedspallm/report/system.hpp"

#include <sched.h>
#include <unistd.h>

#include "commands.hpp"
#include "revision.hpp"
#include "version.hpp"
#include <algorithm>
#include <cstdio>
#include <cstdlib>

namespace fedspallm::app {

namespace {

/// The cores this process may run on, as a string that is equal for equal sets.
std::string affinity_text() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof set, &set) != 0) return "unknown";
  std::string text;
  for (std::size_t core = 0; core < CPU_SETSIZE; ++core)
    if (CPU_ISSET(core, &set)) text += fmt::format("{},", core);
  return text;
}

}  // namespace

int threads_of_rank(comm::Communicator& communicator, int wanted) {
  const std::string mine = communicator.host() + ":" + affinity_text();
  std::string table;
  for (const std::string& place : communicator.gather(mine)) table += place + "\n";
  table = communicator.broadcast(std::move(table));
  int same = 0;
  for (std::size_t begin = 0, end; begin < table.size(); begin = end + 1) {
    end = table.find('\n', begin);
    same += table.compare(begin, end - begin, mine) == 0 ? 1 : 0;
  }
  return wanted > 0 ? wanted : report::threads_for_rank(report::affinity_cores(), same);
}

namespace {

/// The cores that this job was given on this host: Slurm's number, or those of the process that started this
/// one, which mpirun does not bind.
int cores_of_host() {
  if (const char* text = std::getenv("SLURM_CPUS_ON_NODE")) return std::atoi(text);  // NOLINT(cert-err34-c)
  cpu_set_t set;
  CPU_ZERO(&set);
  return sched_getaffinity(::getppid(), sizeof set, &set) == 0 ? CPU_COUNT(&set) : 0;
}

}  // namespace

std::string bound_tightly(comm::Communicator& communicator, int wanted, int threads) {
  const int share = cores_of_host() / communicator.node_size();
  const bool tight = wanted == 0 && threads < share && report::affinity_cores() < cores_of_host();
  const std::int64_t lost = communicator.maximum(tight ? share - threads : 0);
  if (lost == 0) return "";
  return fmt::format(
      "the launcher binds ranks to few cores: some rank has {} thread{} less than its share of its host's "
      "cores; "
      "start with `mpirun --bind-to none`, `mpirun --map-by slot:PE=N` or `srun --cpus-per-task=N`, or set "
      "run.threads",
      lost, lost == 1 ? "" : "s");
}

config::BackendKind backend_kind(const std::string& word) {
  for (const auto kind : {config::BackendKind::automatic, config::BackendKind::cpu, config::BackendKind::cuda,
                          config::BackendKind::reference})
    if (word == config::name_of(kind)) return kind;
  throw ConfigError(fmt::format("--backend: found '{}', expected auto, cpu, cuda or reference", word));
}

config::Products products_kind(const std::string& word) {
  for (const auto kind : {config::Products::f32, config::Products::f16, config::Products::bf16})
    if (word == config::name_of(kind)) return kind;
  throw ConfigError(fmt::format("--products: found '{}', expected f32, f16 or bf16", word));
}

backend::Products products_of(config::Products products) {
  switch (products) {
    case config::Products::f32:
      return backend::Products::f32;
    case config::Products::f16:
      return backend::Products::f16;
    case config::Products::bf16:
      return backend::Products::bf16;
  }
  throw LogicError("products_of: unknown products");
}

namespace {

/// This rank's device among `visible`; 0 when there are none, which the backend then refuses by itself.
int own_device(const backend::CudaDevices& visible, int node_rank) {
  const auto count = static_cast<int>(visible.devices.size());
  return count == 0 ? 0 : backend::cuda_device_of_rank(node_rank, count);
}

std::unique_ptr<backend::Backend> cuda_backend(const backend::CudaDevices& visible, int node_rank,
                                               backend::Products products) {
  return backend::make_cuda_backend({.device = own_device(visible, node_rank), .products = products});
}

/// @param why_cpu  "" where a CPU was asked for
std::unique_ptr<backend::Backend> cpu_backend(int threads, backend::Products products,
                                              const std::string& why_cpu) {
  const std::string lacks = backend::lacks_for(products, select_isa());
  check<ConfigError>(lacks.empty(), fmt::format("run.products: found \"{}\", expected \"f32\": {}{}",
                                                backend::name_of(products), why_cpu, lacks));
  return backend::make_cpu_backend(threads, std::nullopt, products);
}

}  // namespace

std::unique_ptr<backend::Backend> make_backend(config::BackendKind kind, int threads, int node_rank,
                                               config::Products wanted) {
  const backend::Products products = products_of(wanted);
  switch (kind) {
    case config::BackendKind::automatic: {
      const backend::CudaDevices visible = backend::visible_cuda_devices();
      if (!visible.devices.empty()) return cuda_backend(visible, node_rank, products);
      return cpu_backend(threads, products, fmt::format("no GPU is visible here ({}), and ", visible.reason));
    }
    case config::BackendKind::cpu:
      return cpu_backend(threads, products, "");
    case config::BackendKind::cuda:
      return cuda_backend(backend::visible_cuda_devices(), node_rank, products);
    case config::BackendKind::reference:
      return backend::make_reference_backend(products);
  }
  throw LogicError("make_backend: unknown kind");
}

std::int64_t gpu_memory_of_rank(const backend::CudaDevices& visible, int ranks_on_host) {
  require(ranks_on_host >= 1, "gpu_memory_of_rank: ranks_on_host >= 1");
  if (visible.devices.empty()) return 0;
  const auto count = static_cast<std::int64_t>(visible.devices.size());
  const std::int64_t sharing = divide_up(ranks_on_host, count);
  std::int64_t smallest = visible.devices.front().memory_bytes;
  for (const backend::CudaDevice& device : visible.devices)
    smallest = std::min(smallest, device.memory_bytes);
  return smallest / sharing;
}

std::string version_text() {
  const std::string cuda = kCuda ? fmt::format("on (runtime {})", backend::cuda_runtime_version()) : "off";
  return fmt::format("fedspallm {} (git {}), {}, {}, CUDA {}", kVersion, kGitRevision,
                     comm::MpiSession::library_version(), data::hdf5::library_version(), cuda);
}

std::optional<backend::CudaDevice> own_gpu(const comm::Communicator& communicator,
                                           const backend::Backend& backend) {
  if (backend.name() != "cuda") return std::nullopt;
  const backend::CudaDevices visible = backend::visible_cuda_devices();
  return visible.devices.at(static_cast<std::size_t>(own_device(visible, communicator.node_rank())));
}

namespace {

/// Collective. The table of ranks and GPUs on rank 0; "" elsewhere and when no rank has a GPU.
std::string gpu_table(comm::Communicator& communicator, const backend::Backend& backend) {
  const std::optional<backend::CudaDevice> own = own_gpu(communicator, backend);
  const std::string mine = own ? own->uuid : "";
  const std::vector<std::string> hosts = communicator.gather(communicator.host());
  const std::vector<std::string> devices = communicator.gather(mine);
  std::vector<backend::RankPlace> places;
  for (std::size_t rank = 0; rank < hosts.size(); ++rank)
    places.push_back({static_cast<int>(rank), hosts[rank], devices[rank]});
  return backend::rank_table(places);
}

}  // namespace

std::vector<std::pair<std::string, std::string>> facts(comm::Communicator& communicator,
                                                       const backend::Backend& backend, int threads) {
  std::vector<std::pair<std::string, std::string>> result{{"version", kVersion},
                                                          {"git", kGitRevision},
                                                          {"mpi", comm::MpiSession::library_version()},
                                                          {"hdf5", data::hdf5::library_version()},
                                                          {"backend", backend.name()},
                                                          {"kernel_set", backend.kernel_set()},
                                                          {"cpu", report::cpu_model()},
                                                          {"host", communicator.host()},
                                                          {"ranks", std::to_string(communicator.size())},
                                                          {"threads", std::to_string(threads)},
                                                          {"started", report::iso_date()}};
  if (std::string table = gpu_table(communicator, backend); !table.empty())
    result.emplace_back("gpus", std::move(table));
  return result;
}

void leave_directory(const std::string& message) {
  std::fprintf(stderr, "fedspallm: error: %s\n", message.c_str());
  std::fflush(nullptr);
  ::_exit(static_cast<int>(ExitStatus::locked));
}

}  // namespace fedspallm::app
