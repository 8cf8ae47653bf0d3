// SPDX-License-Identifier: Apache-2.0
#include "fedspallm/comm/node_memory.hpp"

#include "fedspallm/aggregate/shared_merge.hpp"
#include "fedspallm/base/rounding.hpp"

#include <mpi.h>
#include <sys/mman.h>
#include <unistd.h>

#include "mpi_check.hpp"
#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <filesystem>

namespace fedspallm::comm {

namespace {

constexpr const char* kVariable = "FEDSPALLM_RANKS_PER_NODE";
constexpr auto kAlignment = static_cast<std::int64_t>(aggregate::SharedMerge::kAlignment);

/// Asks for all pages now: what lacks is then an error here and not a signal at some later store. Kernels
/// before 5.14 know no such call; there nothing is asked.
void touch(std::span<std::byte> memory) {
#if defined(MADV_POPULATE_WRITE)
  const auto page = static_cast<std::uintptr_t>(sysconf(_SC_PAGESIZE));
  const auto begin = reinterpret_cast<std::uintptr_t>(memory.data()) / page * page;
  const auto end = reinterpret_cast<std::uintptr_t>(memory.data() + memory.size());
  if (memory.empty() || madvise(reinterpret_cast<void*>(begin), end - begin, MADV_POPULATE_WRITE) == 0)
    return;
  const int error = errno;
  check<ResourceError>(error == EINVAL || error == ENOSYS,
                       fmt::format("{} bytes of shared memory were promised and are not there: {}",
                                   memory.size(), std::strerror(error)));
#else
  (void)memory;
#endif
}

}  // namespace

std::vector<int> even_nodes(int ranks, int ranks_per_node) {
  require(ranks >= 1 && ranks_per_node >= 1, "even_nodes: ranks, ranks_per_node >= 1");
  std::vector<int> leaders;
  for (int rank = 0; rank < ranks; ++rank) leaders.push_back(rank - rank % ranks_per_node);
  return leaders;
}

bool any_shared(const std::vector<int>& leaders) {
  for (std::size_t rank = 0; rank < leaders.size(); ++rank)
    if (leaders[rank] != static_cast<int>(rank)) return true;
  return false;
}

std::vector<int> node_leaders(const Communicator& communicator,
                              const std::function<const char*(const char*)>& getenv) {
  const char* text = getenv(kVariable);
  if (text == nullptr) return communicator.host_leaders();
  int ranks = 0;
  const char* end = text + std::strlen(text);
  const auto read = std::from_chars(text, end, ranks);
  check<ConfigError>(read.ec == std::errc() && read.ptr == end && ranks >= 1,
                     fmt::format("{}: found \"{}\", expected a number of ranks, from 1 on", kVariable, text));
  return even_nodes(communicator.size(), ranks);
}

std::optional<std::string> shared_memory_lacks(std::int64_t bytes,
                                               const std::function<const char*(const char*)>& getenv) {
  const char* chosen = getenv("OMPI_MCA_osc_sm_backing_directory");
  const std::string folder = chosen != nullptr ? chosen : "/dev/shm";
  std::error_code error;
  const auto space = std::filesystem::space(folder, error);
  if (error || access(folder.c_str(), W_OK | X_OK) != 0)
    return fmt::format("{} cannot be written to: {}", folder,
                       error ? error.message() : std::string(std::strerror(errno)));
  if (static_cast<double>(space.available) < static_cast<double>(bytes))
    return fmt::format("{} has {:.1f} MB free, {:.1f} MB are needed (containers: --shm-size)", folder,
                       static_cast<double>(space.available) / 1e6, static_cast<double>(bytes) / 1e6);
  return std::nullopt;
}

struct NodeMemory::Window {
  MPI_Comm node = MPI_COMM_NULL;
  MPI_Win window = MPI_WIN_NULL;
  std::span<std::byte> memory;
  int exceptions = std::uncaught_exceptions();

  ~Window() {
    if (std::uncaught_exceptions() > exceptions) return;
    if (window != MPI_WIN_NULL) {  // a destructor cannot report
      MPI_Win_unlock_all(window);
      MPI_Win_free(&window);
    }
    if (node != MPI_COMM_NULL) MPI_Comm_free(&node);
  }

  /// The lowest rank gives all of the memory. Every rank sees it at its own address, equally aligned.
  void allocate(std::int64_t bytes) {
    int rank = 0, unit = 0;
    check_mpi(MPI_Comm_rank(node, &rank), "MPI_Comm_rank");
    void* base = nullptr;
    MPI_Aint size = rank == 0 ? bytes + kAlignment : 0;
    check_mpi(MPI_Win_allocate_shared(size, 1, MPI_INFO_NULL, node, static_cast<void*>(&base), &window),
              "MPI_Win_allocate_shared");
    check_mpi(MPI_Win_set_errhandler(window, MPI_ERRORS_RETURN), "MPI_Win_set_errhandler");
    check_mpi(MPI_Win_shared_query(window, 0, &size, &unit, static_cast<void*>(&base)),
              "MPI_Win_shared_query");
    check_mpi(MPI_Win_lock_all(MPI_MODE_NOCHECK, window), "MPI_Win_lock_all");
    auto skipped = static_cast<std::int64_t>(-reinterpret_cast<std::uintptr_t>(base) %
                                             static_cast<std::uintptr_t>(kAlignment));
    const std::int64_t here = skipped;
    check_mpi(MPI_Bcast(&skipped, 1, MPI_INT64_T, 0, node), "MPI_Bcast");
    check<ResourceError>(skipped == here, "ranks of a node see shared memory differently aligned");
    memory = {static_cast<std::byte*>(base) + skipped, static_cast<std::size_t>(bytes)};
    if (rank == 0) touch(memory);
  }
};

NodeMemory::NodeMemory(Communicator& communicator, const std::vector<int>& leaders, std::int64_t state_bytes)
    : state_bytes_(round_up(state_bytes, kAlignment)), window_(std::make_unique<Window>()) {
  require(state_bytes >= 0, "NodeMemory: state_bytes >= 0");
  require(std::ssize(leaders) == communicator.size(), "NodeMemory: a leader for every rank");
  const int leader = leaders[static_cast<std::size_t>(communicator.rank())];
  const std::int64_t bytes = kStates * state_bytes_;
  communicator.together([&] {
    if (leader != communicator.rank()) return;
    const auto lacks = shared_memory_lacks(bytes, [](const char* name) { return std::getenv(name); });
    check<ResourceError>(!lacks.has_value(), "shared memory: " + lacks.value_or(""));
  });
  communicator.together([&] {
    check_mpi(MPI_Comm_split(comm_of(communicator), leader, communicator.rank(), &window_->node),
              "MPI_Comm_split");
    check_mpi(MPI_Comm_set_errhandler(window_->node, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
    try {
      window_->allocate(bytes);
    } catch (const PeerError& error) {
      throw ResourceError(fmt::format("shared memory: {}", error.what()));
    }
  });
}

NodeMemory::~NodeMemory() = default;

std::span<std::byte> NodeMemory::state(int number) const {
  require(0 <= number && number < kStates, "NodeMemory::state: 0 <= number < 2");
  return window_->memory.subspan(static_cast<std::size_t>(number * state_bytes_),
                                 static_cast<std::size_t>(state_bytes_));
}

void NodeMemory::sync() const {
  check_mpi(MPI_Win_sync(window_->window), "MPI_Win_sync");
}

}  // namespace fedspallm::comm
