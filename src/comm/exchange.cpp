// SPDX-License-Identifier: Apache-2.0
// The face that client threads see: checks what they hand over, lets them wait, and turns the end into an
// exception.
#include "fedspallm/comm/exchange.hpp"

#include "engine.hpp"
#include <algorithm>
#include <cmath>
#include <map>
#include <mutex>
#include <utility>

namespace fedspallm::comm {

class Exchange::Impl {
 public:
  Impl(const Communicator& communicator, ExchangePlan plan, ExchangeOptions options, OnCompleted on_completed,
       Provider provider)
      : engine_(communicator, std::move(plan), std::move(options), std::move(on_completed),
                std::move(provider)) {
    const ExchangePlan& known = engine_.plan().plan();
    for (std::uint32_t client = 0; client < known.rank_of_client.size(); ++client) {
      if (known.rank_of_client[client] == engine_.rank()) due_[client] = {engine_.plan().units_of(client), 0};
    }
  }

  void submit(std::size_t index, wire::MatrixUpdate&& update) {
    check_order(index, update);
    Delivery delivery = describe_update(index, update);
    const std::size_t block = engine_.plan().block_of(index);
    engine_.gate().enter(block);
    try {
      if (engine_.options().transport == Transport::gather && engine_.rank() != 0) {
        delivery.encoded = wire::encode(update);
        if (engine_.options().before_send) engine_.options().before_send(delivery.encoded);
      } else {
        delivery.update = std::move(update);
      }
    } catch (...) {
      engine_.gate().taken(block);
      throw;
    }
    engine_.deliver(index, std::move(delivery));
  }

  std::vector<std::byte> fetch(std::uint32_t block) {
    if (engine_.rank() == 0) {
      engine_.gate().wait([] { return true; });  // throws the failure, if there is one
      try {
        return *engine_.provide(block);
      } catch (...) {
        engine_.fail(current_failure(engine_.rank_name()));
        engine_.gate().wait_closed();
      }
    }
    const auto ticket = std::make_shared<FetchTicket>();
    ticket->block = block;
    engine_.fetch(ticket);
    engine_.gate().wait([&] { return ticket->ready; });
    return std::move(ticket->bytes);
  }

  void finish() {
    if (const std::string missing = first_missing(); !missing.empty()) fail(LogicError(missing));
    engine_.finish();
    engine_.gate().wait_closed();
  }

  void fail(const Error& error) {
    engine_.fail(failure_of(error, engine_.rank_name()));
    engine_.gate().wait_closed_quietly();
  }

  [[nodiscard]] ExchangeStatistics statistics() const { return engine_.statistics(); }

 private:
  struct Due {
    std::vector<std::size_t> units;
    std::size_t next = 0;
  };

  /// Each client delivers its units in plan order, and what the plan says of them.
  void check_order(std::size_t index, const wire::MatrixUpdate& update) {
    require(index < engine_.plan().size(), "submit: index < number of planned units");
    const PlannedUnit& unit = engine_.plan().unit(index);
    const wire::PackedMatrix& matrix = update.matrix;
    require(update.unit == unit.id, "submit: the update is of the planned unit");
    require(matrix.rows == unit.rows && matrix.cols == unit.cols && matrix.dtype == unit.dtype,
            "submit: the update has the planned shape and dtype");
    require(update.hessian_diagonal.size() == (unit.with_diagonal ? static_cast<std::size_t>(unit.cols) : 0),
            "submit: the update carries diag(H) where the plan says so, and only there");
    const std::lock_guard lock(due_mutex_);
    const auto due = due_.find(update.client);
    require(due != due_.end(), "submit: the client belongs to this rank");
    require(due->second.next < due->second.units.size() && due->second.units[due->second.next] == index,
            "submit: a client delivers its planned units, each once, in plan order");
    ++due->second.next;
  }

  [[nodiscard]] Delivery describe_update(std::size_t index, const wire::MatrixUpdate& update) const {
    Delivery delivery;
    Announcement& said = delivery.said;
    said.client = update.client;
    said.kept = update.matrix.kept;
    said.report = update.report;
    said.largest = wire::largest_magnitude(update.matrix);
    bool finite = std::isfinite(said.largest);
    for (const float value : update.hessian_diagonal) {
      finite = finite && std::isfinite(value) && value >= 0;
      said.largest_diagonal = std::max(said.largest_diagonal, value);
    }
    if (!finite) {
      throw NumericalError(
          fmt::format("client {}'s update of {} holds a value that is not finite, or a negative diagonal "
                      "of its Hessian",
                      update.client, describe(engine_.plan().unit(index))));
    }
    return delivery;
  }

  [[nodiscard]] std::string first_missing() {
    const std::lock_guard lock(due_mutex_);
    for (const auto& [client, due] : due_) {
      if (due.next < due.units.size()) {
        return fmt::format("finish() before client {} had delivered {}", client,
                           describe(engine_.plan().unit(due.units[due.next])));
      }
    }
    return "";
  }

  std::mutex due_mutex_;
  std::map<std::uint32_t, Due> due_;  // this rank's clients
  Engine engine_;
};

namespace {

/// All ranks must have the same plan and options: the protocol leans on it.
void check_same_everywhere(Communicator& communicator, const ExchangePlan& plan,
                           const ExchangeOptions& options) {
  const std::int64_t own = PlanIndex(plan, communicator.size()).fingerprint() ^ (options.chunk_bytes << 8) ^
                           (options.message_limit << 4) ^ (static_cast<std::int64_t>(options.transport) << 2);
  const std::int64_t largest = communicator.maximum(own);
  const std::int64_t smallest = -communicator.maximum(-own);
  require(largest == smallest,
          "Exchange: all ranks give the same plan, transport, chunk_bytes and message_limit");
}

}  // namespace

Exchange::Exchange(Communicator& communicator, ExchangePlan plan, ExchangeOptions options,
                   OnCompleted on_completed, Provider provider) {
  require(options.window_blocks >= 1, "Exchange: window_blocks >= 1");
  require(options.chunk_bytes >= 1, "Exchange: chunk_bytes >= 1");
  require(options.message_limit >= 1 && options.message_limit <= kMessageLimit,
          "Exchange: 1 <= message_limit <= 2^30");
  require(communicator.rank() != 0 || on_completed, "Exchange: the root has a callback");
  check_same_everywhere(communicator, plan, options);
  impl_ = std::make_unique<Impl>(communicator, std::move(plan), std::move(options), std::move(on_completed),
                                 std::move(provider));
}

Exchange::~Exchange() {
  try {
    impl_->fail(Error(ExitStatus::peer_lost, "left an exchange before it was finished"));
  } catch (...) {  // only memory for the message can lack; the threads then end with the process
  }
}

void Exchange::submit(std::size_t index, wire::MatrixUpdate update) {
  impl_->submit(index, std::move(update));
}
std::vector<std::byte> Exchange::fetch(std::uint32_t block) {
  return impl_->fetch(block);
}
void Exchange::finish() {
  impl_->finish();
}
void Exchange::fail(const Error& error) {
  impl_->fail(error);
}
ExchangeStatistics Exchange::statistics() const {
  return impl_->statistics();
}

}  // namespace fedspallm::comm
