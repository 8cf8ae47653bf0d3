// SPDX-License-Identifier: Apache-2.0
// Purpose: who talks. RAII for MPI itself and for one communicator whose errors come back as PeerError
// (MPI_ERRORS_RETURN), with the few collectives that set-up and tear-down need. Every MPI call of the product
// is in src/comm. Non-goal: what is said about matrices (exchange.hpp).
#pragma once

#include "fedspallm/base/error.hpp"

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace fedspallm::comm {

/// MPI_Init_thread(MPI_THREAD_SERIALIZED) ... MPI_Finalize. One per process.
/// @throws LaunchError when started wrongly (rulings.md 26), with the command to use; MPI is then already
/// finalized.
class MpiSession {
 public:
  MpiSession(int& argc, char**& argv);
  ~MpiSession();
  MpiSession(const MpiSession&) = delete;
  MpiSession& operator=(const MpiSession&) = delete;
  /// Ends the processes of all ranks, where they cannot come to a common end; the message was printed.
  [[noreturn]] static void abort(ExitStatus status);
  /// e.g. "Open MPI v4.1.4"
  [[nodiscard]] static std::string library_version();
};

/// Compares the launcher's environment with the size of the world (rulings.md 26); nothing when it agrees,
/// else the message. A plain function, so that it is tested without a launcher.
[[nodiscard]] std::optional<std::string> wrong_start(int world_size,
                                                     const std::function<const char*(const char*)>& getenv);

/// A duplicate of MPI_COMM_WORLD. Calls on it from one thread at a time.
class Communicator {
 public:
  /// @param message_limit  largest single MPI message in bytes, 1 to 2^30; longer data are split (tests set
  /// it small).
  explicit Communicator(std::int64_t message_limit = std::int64_t{1} << 30);
  ~Communicator();
  Communicator(const Communicator&) = delete;
  Communicator& operator=(const Communicator&) = delete;

  [[nodiscard]] int rank() const { return rank_; }
  [[nodiscard]] int size() const { return size_; }
  /// Rank among the ranks of this host, and their number.
  [[nodiscard]] int node_rank() const { return node_rank_; }
  [[nodiscard]] int node_size() const { return node_size_; }
  [[nodiscard]] const std::string& host() const { return host_; }
  /// By rank, the lowest rank of its host.
  [[nodiscard]] const std::vector<int>& host_leaders() const { return host_leaders_; }

  /// Sleeping wait (no core is burnt) until all ranks are here.
  void barrier();
  /// The same; false when not all are here after so many seconds. No other call may follow then but an abort.
  [[nodiscard]] bool barrier_within(double seconds);
  /// Root's bytes to everybody; any size.
  void broadcast(std::vector<std::byte>& bytes, int root = 0);
  [[nodiscard]] std::string broadcast(std::string text, int root = 0);
  /// Everybody's bytes at the root, in rank order (empty elsewhere); any sizes.
  [[nodiscard]] std::vector<std::vector<std::byte>> gather(std::span<const std::byte> bytes, int root = 0);
  [[nodiscard]] std::vector<std::string> gather(const std::string& text, int root = 0);
  [[nodiscard]] std::int64_t maximum(std::int64_t value);
  [[nodiscard]] std::int64_t sum(std::int64_t value);

  /// Collective: every rank tells whether its part of a step failed. When nobody did, returns. Otherwise
  /// every rank throws an error of the status of the lowest failing rank; messages of all failing ranks are
  /// joined, each prefixed by "rank R on HOST:" (equal ones once, with "(on N ranks)").
  void agree(const std::optional<Error>& failure);
  /// Runs `step` and agrees on its outcome.
  void together(const std::function<void()>& step);

  /// Points to the MPI_Comm, for files of src/comm only (a void pointer keeps mpi.h out of this header).
  [[nodiscard]] void* handle() const { return handle_; }

 private:
  void* handle_ = nullptr;
  std::int64_t message_limit_;
  int rank_ = 0, size_ = 1, node_rank_ = 0, node_size_ = 1;
  std::string host_;
  std::vector<int> host_leaders_;
};

}  // namespace fedspallm::comm
