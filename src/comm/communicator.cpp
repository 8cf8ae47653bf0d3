// SPDX-License-Identifier: Apache-2.0
// The few collectives of set-up and tear-down. All are non-blocking calls that are waited for asleep: a rank
// that waits for a slow one burns no core.
#include "fedspallm/comm/communicator.hpp"

#include <mpi.h>

#include "mpi_check.hpp"
#include <algorithm>
#include <array>
#include <chrono>
#include <cstring>
#include <memory>
#include <thread>

namespace fedspallm::comm {

namespace {

constexpr int kGatherTag = 32;  // the exchange's tags are below 16

/// Waits asleep: 20 us at first, so that short waits stay short, up to 1 ms.
void wait(MPI_Request& request, const char* function) {
  auto pause = std::chrono::microseconds(20);
  for (;;) {
    int done = 0;
    check_mpi(MPI_Test(&request, &done, MPI_STATUS_IGNORE), function);
    if (done != 0) return;
    std::this_thread::sleep_for(pause);
    pause = std::min(pause * 2, std::chrono::microseconds(1000));
  }
}

std::int64_t reduced(MPI_Comm comm, std::int64_t value, MPI_Op op) {
  std::int64_t result = 0;
  MPI_Request request = MPI_REQUEST_NULL;
  check_mpi(MPI_Iallreduce(&value, &result, 1, MPI_INT64_T, op, comm, &request), "MPI_Iallreduce");
  wait(request, "MPI_Iallreduce");
  return result;
}

std::string text_of(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

std::vector<std::byte> bytes_of(std::string_view text) {
  const auto* begin = reinterpret_cast<const std::byte*>(text.data());
  return {begin, begin + text.size()};
}

/// Messages of the failing ranks, in rank order; equal ones once.
std::string joined(const std::vector<std::string>& prefixes, const std::vector<std::string>& messages) {
  std::string text;
  std::vector<bool> told(messages.size(), false);
  for (std::size_t rank = 0; rank < messages.size(); ++rank) {
    if (messages[rank].empty() || told[rank]) continue;
    std::size_t equal = 0;
    for (std::size_t other = rank; other < messages.size(); ++other) {
      if (messages[other] != messages[rank]) continue;
      told[other] = true;
      ++equal;
    }
    if (!text.empty()) text += '\n';
    text += fmt::format("{}: {}", prefixes[rank], messages[rank]);
    if (equal > 1) text += fmt::format(" (on {} ranks)", equal);
  }
  return text;
}

}  // namespace

Communicator::Communicator(std::int64_t message_limit) : message_limit_(message_limit) {
  require(message_limit >= 1 && message_limit <= kMessageLimit, "1 <= message_limit <= 2^30");
  auto comm = std::make_unique<MPI_Comm>(MPI_COMM_NULL);
  check_mpi(MPI_Comm_dup(MPI_COMM_WORLD, comm.get()), "MPI_Comm_dup");
  check_mpi(MPI_Comm_set_errhandler(*comm, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
  check_mpi(MPI_Comm_rank(*comm, &rank_), "MPI_Comm_rank");
  check_mpi(MPI_Comm_size(*comm, &size_), "MPI_Comm_size");
  MPI_Comm node = MPI_COMM_NULL;
  check_mpi(MPI_Comm_split_type(*comm, MPI_COMM_TYPE_SHARED, rank_, MPI_INFO_NULL, &node),
            "MPI_Comm_split_type");
  check_mpi(MPI_Comm_rank(node, &node_rank_), "MPI_Comm_rank");
  check_mpi(MPI_Comm_size(node, &node_size_), "MPI_Comm_size");
  int leader = rank_;
  check_mpi(MPI_Bcast(&leader, 1, MPI_INT, 0, node), "MPI_Bcast");
  check_mpi(MPI_Comm_free(&node), "MPI_Comm_free");
  host_leaders_.resize(static_cast<std::size_t>(size_));
  check_mpi(MPI_Allgather(&leader, 1, MPI_INT, host_leaders_.data(), 1, MPI_INT, *comm), "MPI_Allgather");
  std::array<char, MPI_MAX_PROCESSOR_NAME> name{};
  int length = 0;
  check_mpi(MPI_Get_processor_name(name.data(), &length), "MPI_Get_processor_name");
  host_.assign(name.data(), static_cast<std::size_t>(length));
  handle_ = comm.release();
}

Communicator::~Communicator() {
  const std::unique_ptr<MPI_Comm> comm(static_cast<MPI_Comm*>(handle_));
  MPI_Comm_free(comm.get());  // a destructor cannot report; Finalize will, if it matters
}

void Communicator::barrier() {
  MPI_Request request = MPI_REQUEST_NULL;
  check_mpi(MPI_Ibarrier(comm_of(*this), &request), "MPI_Ibarrier");
  wait(request, "MPI_Ibarrier");
}

bool Communicator::barrier_within(double seconds) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds);
  MPI_Request request = MPI_REQUEST_NULL;
  check_mpi(MPI_Ibarrier(comm_of(*this), &request), "MPI_Ibarrier");
  int done = 0;
  while (done == 0 && std::chrono::steady_clock::now() < end) {
    check_mpi(MPI_Test(&request, &done, MPI_STATUS_IGNORE), "MPI_Ibarrier");
    if (done == 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return done != 0;
}

void Communicator::broadcast(std::vector<std::byte>& bytes, int root) {
  require(root >= 0 && root < size_, "broadcast: 0 <= root < size");
  auto size = static_cast<std::int64_t>(bytes.size());
  MPI_Request request = MPI_REQUEST_NULL;
  check_mpi(MPI_Ibcast(&size, 1, MPI_INT64_T, root, comm_of(*this), &request), "MPI_Ibcast");
  wait(request, "MPI_Ibcast");
  if (rank_ != root) bytes.resize(static_cast<std::size_t>(size));
  for (std::int64_t begin = 0; begin < size; begin += message_limit_) {
    const int count = checked_count(std::min(message_limit_, size - begin));
    check_mpi(MPI_Ibcast(bytes.data() + begin, count, MPI_BYTE, root, comm_of(*this), &request),
              "MPI_Ibcast");
    wait(request, "MPI_Ibcast");
  }
}

std::string Communicator::broadcast(std::string text, int root) {
  std::vector<std::byte> bytes = bytes_of(text);
  broadcast(bytes, root);
  return text_of(bytes);
}

std::vector<std::vector<std::byte>> Communicator::gather(std::span<const std::byte> bytes, int root) {
  require(root >= 0 && root < size_, "gather: 0 <= root < size");
  const MPI_Comm comm = comm_of(*this);
  auto size = static_cast<std::int64_t>(bytes.size());
  std::vector<std::int64_t> sizes(rank_ == root ? static_cast<std::size_t>(size_) : 0);
  MPI_Request request = MPI_REQUEST_NULL;
  check_mpi(MPI_Igather(&size, 1, MPI_INT64_T, sizes.data(), 1, MPI_INT64_T, root, comm, &request),
            "MPI_Igather");
  wait(request, "MPI_Igather");
  if (rank_ != root) {
    for (std::int64_t begin = 0; begin < size; begin += message_limit_) {
      const int count = checked_count(std::min(message_limit_, size - begin));
      check_mpi(MPI_Isend(bytes.data() + begin, count, MPI_BYTE, root, kGatherTag, comm, &request),
                "MPI_Isend");
      wait(request, "MPI_Isend");
    }
    return {};
  }
  std::vector<std::vector<std::byte>> all(sizes.size());
  for (int source = 0; source < size_; ++source) {
    const auto place = static_cast<std::size_t>(source);
    if (source == rank_) {
      all[place].assign(bytes.begin(), bytes.end());
      continue;
    }
    all[place].resize(static_cast<std::size_t>(sizes[place]));
    for (std::int64_t begin = 0; begin < sizes[place]; begin += message_limit_) {
      const int count = checked_count(std::min(message_limit_, sizes[place] - begin));
      check_mpi(MPI_Irecv(all[place].data() + begin, count, MPI_BYTE, source, kGatherTag, comm, &request),
                "MPI_Irecv");
      wait(request, "MPI_Irecv");
    }
  }
  return all;
}

std::vector<std::string> Communicator::gather(const std::string& text, int root) {
  std::vector<std::string> texts;
  for (const auto& bytes : gather(std::as_bytes(std::span(text)), root)) texts.push_back(text_of(bytes));
  return texts;
}

std::int64_t Communicator::maximum(std::int64_t value) {
  return reduced(comm_of(*this), value, MPI_MAX);
}

std::int64_t Communicator::sum(std::int64_t value) {
  return reduced(comm_of(*this), value, MPI_SUM);
}

void Communicator::agree(const std::optional<Error>& failure) {
  const std::int64_t first_failing = -maximum(failure ? -rank_ : -size_);  // a minimum
  if (first_failing == size_) return;
  // An empty message means "did not fail", so an Error with an empty text gets one.
  std::string message;
  if (failure) message = failure->what();
  if (failure && message.empty()) message = "failed without a message";
  const std::vector<std::string> prefixes = gather(fmt::format("rank {} on {}", rank_, host_));
  const std::vector<std::string> messages = gather(message);
  const std::string text = broadcast(rank_ == 0 ? joined(prefixes, messages) : std::string());
  std::string status;
  if (failure && rank_ == first_failing) status = std::to_string(static_cast<int>(failure->status()));
  status = broadcast(std::move(status), static_cast<int>(first_failing));
  throw Error(static_cast<ExitStatus>(std::stoi(status)), text);
}

void Communicator::together(const std::function<void()>& step) {
  std::optional<Error> failure;
  try {
    step();
  } catch (...) {
    failure = current_error();
  }
  agree(failure);
}

}  // namespace fedspallm::comm
