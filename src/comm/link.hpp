// SPDX-License-Identifier: Apache-2.0
// Purpose: the communication thread's hands: ordered control messages, bulk data of any size, and progress of
// both. Messages to oneself take a shortcut without MPI, so a world of one makes no MPI call. Not
// thread-safe.
#pragma once

#include <mpi.h>

#include "messages.hpp"
#include "mpi_check.hpp"
#include <atomic>
#include <deque>
#include <functional>

namespace fedspallm::comm {

/// Constant tags: between two ranks, bulk data of one kind are sent in the order in which they were asked
/// for, and MPI keeps that order. So no unit number is needed in a tag, and MPI_TAG_UB (at least 32767) never
/// matters.
enum class Tag : int { control = 1, payload = 2, block = 3, chain = 4, slice = 5, result = 6 };

struct LinkCounters {
  std::atomic<std::int64_t> bytes_sent{0};
  std::atomic<std::int64_t> bytes_received{0};
  std::atomic<std::int64_t> messages_sent{0};
};

class Link {
 public:
  using Done = std::function<void()>;
  using Handler = std::function<void(int source, Message&& message)>;

  Link(const Communicator& communicator, std::int64_t message_limit, LinkCounters& counters);

  [[nodiscard]] int rank() const { return rank_; }
  [[nodiscard]] int size() const { return size_; }

  void post(int rank, const Message& message);
  /// `bytes` must live until `done` is called; longer ones than the limit (crossing data: some 60 KB) become
  /// several messages.
  void send(int rank, Tag tag, std::span<const std::byte> bytes, Done done);
  void receive(int rank, Tag tag, std::span<std::byte> bytes, Done done);

  /// Moves everything on: calls handlers of arrived control messages and `done` of finished transfers.
  /// False when nothing happened. An exception of a handler passes through; nothing is lost by it.
  bool poll(const Handler& handler);

  /// Unfinished transfers, control messages included.
  [[nodiscard]] bool idle() const { return requests_.empty() && finished_.empty() && to_self_.empty(); }
  /// Bulk transfers under way: worth polling fast.
  [[nodiscard]] bool busy() const { return bulk_ > 0; }

 private:
  struct Pending {
    Done done;
    int expected_bytes = -1;  // of a receive
    bool bulk = false;
  };
  void add(MPI_Request request, Pending pending);
  /// Parts of one transfer may finish in any order: the last of them to finish calls `done`.
  Done after_all_parts(std::int64_t size, std::int64_t part, Done done);
  /// The most that one message of such data holds; the same on both sides.
  [[nodiscard]] std::int64_t part_bytes(Tag tag) const;
  bool receive_control(const Handler& handler);
  bool test_requests();

  MPI_Comm comm_;
  int rank_, size_;
  std::int64_t message_limit_;
  LinkCounters& counters_;
  std::vector<MPI_Request> requests_;  // parallel to pending_
  std::vector<Pending> pending_;
  std::vector<int> indices_;
  std::vector<MPI_Status> statuses_;
  std::deque<Done> finished_;
  std::deque<Message> to_self_;
  std::int64_t bulk_ = 0;
};

}  // namespace fedspallm::comm
