// SPDX-License-Identifier: Apache-2.0
#include "link.hpp"

#include "fedspallm/base/rounding.hpp"

#include <algorithm>
#include <memory>
#include <utility>

namespace fedspallm::comm {

namespace {
/// Slices and results of owners cross each other on the way between two ranks. Over TCP, Open MPI asks the
/// receiver of a message above 64 KiB for leave, and the answer waits on its only connection behind all that
/// the receiver sends itself: so one direction stood still until the other was through (docs/merging.md).
/// Shorter messages need no leave.
constexpr std::int64_t kCrossingBytes = 60'000;
/// What follows each poll() looks at all that is under way, which costs more than a message: a burst of them
/// (a round of offers from every rank) is handled together, but transfers do not wait for the end of a long
/// one.
constexpr int kControlAtOnce = 256;
}  // namespace

std::int64_t Link::part_bytes(Tag tag) const {
  const bool crossing = tag == Tag::slice || tag == Tag::result;
  return crossing ? std::min(message_limit_, kCrossingBytes) : message_limit_;
}

Link::Link(const Communicator& communicator, std::int64_t message_limit, LinkCounters& counters)
    : comm_(comm_of(communicator)),
      rank_(communicator.rank()),
      size_(communicator.size()),
      message_limit_(message_limit),
      counters_(counters) {}

void Link::add(MPI_Request request, Pending pending) {
  if (pending.bulk) ++bulk_;
  requests_.push_back(request);
  pending_.push_back(std::move(pending));
}

void Link::post(int rank, const Message& message) {
  if (rank == rank_) {
    to_self_.push_back(message);
    return;
  }
  const auto bytes = std::make_shared<const std::vector<std::byte>>(to_bytes(message));
  MPI_Request request = MPI_REQUEST_NULL;
  check_mpi(MPI_Isend(bytes->data(), checked_count(static_cast<std::int64_t>(bytes->size())), MPI_BYTE, rank,
                      static_cast<int>(Tag::control), comm_, &request),
            "MPI_Isend");
  counters_.bytes_sent += static_cast<std::int64_t>(bytes->size());
  ++counters_.messages_sent;
  add(request, {.done = [bytes] {}});
}

Link::Done Link::after_all_parts(std::int64_t size, std::int64_t part, Done done) {
  if (size == 0) finished_.push_back(done);
  const auto left = std::make_shared<std::int64_t>(divide_up(size, part));
  return [left, done = std::move(done)] {
    if (--*left == 0) done();
  };
}

void Link::send(int rank, Tag tag, std::span<const std::byte> bytes, Done done) {
  const auto size = static_cast<std::int64_t>(bytes.size());
  const std::int64_t part = part_bytes(tag);
  const Done part_done = after_all_parts(size, part, std::move(done));
  for (std::int64_t begin = 0; begin < size; begin += part) {
    const int count = checked_count(std::min(part, size - begin));
    MPI_Request request = MPI_REQUEST_NULL;
    check_mpi(MPI_Isend(bytes.data() + begin, count, MPI_BYTE, rank, static_cast<int>(tag), comm_, &request),
              "MPI_Isend");
    counters_.bytes_sent += count;
    ++counters_.messages_sent;
    add(request, {.done = part_done, .bulk = true});
  }
}

void Link::receive(int rank, Tag tag, std::span<std::byte> bytes, Done done) {
  const auto size = static_cast<std::int64_t>(bytes.size());
  const std::int64_t part = part_bytes(tag);
  const Done part_done = after_all_parts(size, part, std::move(done));
  for (std::int64_t begin = 0; begin < size; begin += part) {
    const int count = checked_count(std::min(part, size - begin));
    MPI_Request request = MPI_REQUEST_NULL;
    check_mpi(MPI_Irecv(bytes.data() + begin, count, MPI_BYTE, rank, static_cast<int>(tag), comm_, &request),
              "MPI_Irecv");
    add(request, {.done = part_done, .expected_bytes = count, .bulk = true});
  }
}

bool Link::receive_control(const Handler& handler) {
  if (!to_self_.empty()) {
    Message message = std::move(to_self_.front());
    to_self_.pop_front();
    handler(rank_, std::move(message));
    return true;
  }
  if (size_ == 1) return false;
  int found = 0;
  MPI_Message handle = MPI_MESSAGE_NULL;
  MPI_Status status;
  check_mpi(MPI_Improbe(MPI_ANY_SOURCE, static_cast<int>(Tag::control), comm_, &found, &handle, &status),
            "MPI_Improbe");
  if (found == 0) return false;
  int count = 0;
  check_mpi(MPI_Get_count(&status, MPI_BYTE, &count), "MPI_Get_count");
  std::vector<std::byte> bytes(static_cast<std::size_t>(count));
  // Waits only for the rest of a message that has begun to arrive; its sender's communication thread is at
  // work on it.
  check_mpi(MPI_Mrecv(bytes.data(), count, MPI_BYTE, &handle, &status), "MPI_Mrecv");
  counters_.bytes_received += count;
  handler(status.MPI_SOURCE, from_bytes(bytes));
  return true;
}

bool Link::test_requests() {
  if (requests_.empty()) return false;
  indices_.resize(requests_.size());
  statuses_.resize(requests_.size());
  int completed = 0;
  const int code = MPI_Testsome(checked_count(static_cast<std::int64_t>(requests_.size())), requests_.data(),
                                &completed, indices_.data(), statuses_.data());
  if (code == MPI_ERR_IN_STATUS) {
    for (int i = 0; i < completed; ++i)
      check_mpi(statuses_[static_cast<std::size_t>(i)].MPI_ERROR, "MPI_Testsome");
  }
  check_mpi(code, "MPI_Testsome");
  if (completed == MPI_UNDEFINED || completed == 0) return false;
  for (std::size_t i = 0; i < static_cast<std::size_t>(completed); ++i) {
    Pending& pending = pending_[static_cast<std::size_t>(indices_[i])];
    if (pending.bulk) --bulk_;
    if (pending.expected_bytes >= 0) {
      int count = 0;
      check_mpi(MPI_Get_count(&statuses_[i], MPI_BYTE, &count), "MPI_Get_count");
      if (count != pending.expected_bytes) {
        throw PeerError(fmt::format("rank {} sent a message of {} bytes where {} were announced",
                                    statuses_[i].MPI_SOURCE, count, pending.expected_bytes));
      }
      counters_.bytes_received += count;
    }
    if (pending.done) finished_.push_back(std::move(pending.done));
  }
  std::size_t kept = 0;
  for (std::size_t i = 0; i < requests_.size(); ++i) {
    if (requests_[i] == MPI_REQUEST_NULL) continue;
    if (kept != i) {
      requests_[kept] = requests_[i];
      pending_[kept] = std::move(pending_[i]);
    }
    ++kept;
  }
  requests_.resize(kept);
  pending_.resize(kept);
  return true;
}

bool Link::poll(const Handler& handler) {
  bool progressed = false;
  for (int message = 0; message < kControlAtOnce && receive_control(handler); ++message) progressed = true;
  progressed = test_requests() || progressed;
  while (!finished_.empty()) {
    const Done done = std::move(finished_.front());
    finished_.pop_front();
    done();
    progressed = true;
  }
  return progressed;
}

}  // namespace fedspallm::comm
