// SPDX-License-Identifier: Apache-2.0
// doctor: what this machine can do, one line a fact, with what to do where something lacks.
#include "fedspallm/backend/backend.hpp"
#include "fedspallm/backend/cuda.hpp"
#include "fedspallm/base/cpu_features.hpp"
#include "fedspallm/comm/device.hpp"
#include "fedspallm/report/system.hpp"

#include "commands.hpp"
#include "setup.hpp"
#include <cstdio>
#include <cstdlib>
#include <filesystem>

namespace fedspallm::app {

namespace {

std::string launcher() {
  if (std::getenv("OMPI_COMM_WORLD_SIZE") != nullptr) return "mpirun (Open MPI)";
  if (std::getenv("SLURM_STEP_NUM_TASKS") != nullptr) return "srun (Slurm)";
  return "none (a single process)";
}

void line(const std::string& name, const std::string& value) {
  std::printf("%-16s %s\n", name.c_str(), value.c_str());
}

std::string gigabytes(std::int64_t bytes) {
  return fmt::format("{:.1f} GB", static_cast<double>(bytes) / 1e9);
}

std::string cuda_state() {
  const backend::CudaDevices visible = backend::visible_cuda_devices();
  if (visible.devices.empty()) return fmt::format("no: {}", visible.reason);
  std::string text;
  for (const backend::CudaDevice& device : visible.devices)
    text += fmt::format("{}{} {} ({}, {}, compute capability {}.{})", text.empty() ? "" : "; ", device.index,
                        device.name, device.uuid, gigabytes(device.memory_bytes), device.major, device.minor);
  return text;
}

}  // namespace

ExitStatus run_doctor(comm::Communicator& communicator) {
  const int threads = threads_of_rank(communicator, 0);
  if (communicator.rank() != 0) return ExitStatus::done;
  const std::filesystem::path here = std::filesystem::current_path();
  line("version", version_text());
  line("launcher", launcher());
  line("ranks", fmt::format("{} ({} on this host, {})", communicator.size(), communicator.node_size(),
                            communicator.host()));
  line("cpu", report::cpu_model());
  std::string kernels;
  for (const Isa isa : {Isa::baseline, Isa::avx2, Isa::avx512})
    kernels += fmt::format("{} {}  ", name_of(isa), supported(isa) ? "yes" : "no");
  line("kernels", kernels + "(FEDSPALLM_ISA chooses another)");
  const std::string lacks = backend::lacks_for(backend::Products::bf16, select_isa());
  line("bf16 products", lacks.empty() ? "yes (run.products)" : "no: " + lacks);
  line("kernel set", backend::make_cpu_backend(threads)->kernel_set());
  line("threads",
       fmt::format("{} a rank ({} cores given to this process)", threads, report::affinity_cores()));
  line("cuda", cuda_state());
  const comm::NcclLibrary nccl = comm::nccl_library();
  line("nccl", nccl.version == 0 ? fmt::format("no: {}", nccl.lacks) : std::to_string(nccl.version));
  line("memory", gigabytes(report::available_memory_bytes()) + " available");
  line("disk", fmt::format("{} free in {}", gigabytes(report::free_disk_bytes(here)), here.string()));
  line("file locks", report::probe_file_lock(here));
  line("fsync", report::probe_fsync(here));
  return ExitStatus::done;
}

}  // namespace fedspallm::app
