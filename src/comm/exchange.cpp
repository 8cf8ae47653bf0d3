// SPDX-License-Identifier: Apache-2.0
// The face that client threads see: checks what they hand over, lets them wait, and turns the end into an
// exception.
#include "fedspallm/comm/exchange.hpp"

#include "fedspallm/aggregate/shared_merge.hpp"
#include "fedspallm/base/hash.hpp"
#include "fedspallm/wire/device.hpp"

#include "engine.hpp"
#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <utility>

namespace fedspallm::comm {

class Exchange::Impl {
 public:
  Impl(const Communicator& communicator, ExchangePlan plan, ExchangeOptions options, OnCompleted on_completed,
       Provider provider)
      : engine_(communicator, std::move(plan), std::move(options), std::move(on_completed),
                std::move(provider)) {}

  void start() { engine_.start(); }

  Boundary at_boundary(std::uint32_t block) {
    engine_.gate().wait([] { return true; });  // throws the failure, if there is one
    if (!engine_.due().anybody_left())
      return engine_.gate().with_boundaries([&](Boundaries& all) { return all.pass(block); });
    const std::uint32_t next = next_block();
    if (block != next) {
      throw LogicError(
          fmt::format("at_boundary({}) where block {} comes next: each block is asked for once, in order, "
                      "from the plan's first_block on",
                      block, next));
    }
    return begin(block);
  }

  void wish(Boundary what) { engine_.wish(what); }

  void submit(std::size_t index, wire::MatrixUpdate&& update) {
    check_content(index, update);
    if (!engine_.due().deliver(index, update.client)) return;
    Delivery delivery = describe_update(index, update);
    begin_unasked(engine_.plan().unit(index).id.block);
    const std::size_t block = engine_.plan().block_of(index);
    engine_.gate().enter(block);
    try {
      if (engine_.options().transport == Transport::nccl) {
        to_device(delivery, update);
      } else if (engine_.options().topology == Topology::owners) {
        delivery.cut = cut_update(engine_.plan().unit(index), engine_.options(), std::move(update),
                                  engine_.rank(), engine_.ranks());
      } else if (engine_.options().transport == Transport::gather && engine_.rank() != 0) {
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

  void submit_later(std::size_t index, std::vector<UpdateSummary>&& summaries, MakeUpdate&& make,
                    MakeSlices&& slices) {
    require(index < engine_.plan().size(), "submit_later: index < number of planned units");
    require(static_cast<bool>(make), "submit_later: something makes the updates");
    require(engine_.options().deadline_seconds == 0, "submit_later: without a deadline");
    require(engine_.options().transport != Transport::nccl, "submit_later: not with the transport nccl");
    for (const UpdateSummary& one : summaries) check_summary(index, one);
    engine_.due().deliver_all(index, summaries);
    if (summaries.empty()) return;
    begin_unasked(engine_.plan().unit(index).id.block);
    engine_.gate().enter(engine_.plan().block_of(index), summaries.size());
    OwnUpdates later;
    later.later = std::move(summaries);
    later.make = std::move(make);
    later.slices = std::move(slices);
    try {
      if (engine_.options().topology == Topology::owners) engine_.count_slices(index, later);
    } catch (...) {
      engine_.fail(current_failure(engine_.rank_name()));
      return;
    }
    engine_.deliver_later(index, std::move(later));
  }

  void drop(std::uint32_t client, std::uint32_t block, std::string&& reason) {
    if (engine_.due().drop(client, block)) engine_.drop({client, block, std::move(reason)});
  }

  [[nodiscard]] bool is_dropped(std::uint32_t client) { return engine_.due().is_dropped(client); }
  [[nodiscard]] const Facts& facts() const { return engine_.facts(); }

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
    const auto end = engine_.gate().with_boundaries([](const Boundaries& all) { return all.told_to_stop(); });
    if (const std::string missing = engine_.due().first_missing(end); !missing.empty())
      fail(LogicError(missing));
    engine_.finish();
    engine_.gate().wait_closed();
  }

  void fail(const Error& error) {
    engine_.fail(failure_of(error, engine_.rank_name()));
    engine_.gate().wait_closed_quietly();
  }

  [[nodiscard]] ExchangeStatistics statistics() const { return engine_.statistics(); }

 private:
  Boundary begin(std::uint32_t block) {
    return engine_.gate().begin(block, engine_.plan().block_of(engine_.plan().first_unit_of(block)));
  }

  [[nodiscard]] std::uint32_t next_block() {
    return engine_.gate().with_boundaries([](const Boundaries& all) { return all.next(); });
  }

  /// For callers that submit without asking.
  void begin_unasked(std::uint32_t block) {
    if (block < next_block()) return;
    require(begin(block) != Boundary::stop, "submit: the block comes before the agreed stop");
  }

  /// A client delivers what the plan says.
  void check_content(std::size_t index, const wire::MatrixUpdate& update) const {
    require(index < engine_.plan().size(), "submit: index < number of planned units");
    const PlannedUnit& unit = engine_.plan().unit(index);
    const wire::PackedMatrix& matrix = update.matrix;
    require(update.unit == unit.id, "submit: the update is of the planned unit");
    require(matrix.rows == unit.rows && matrix.cols == unit.cols && matrix.dtype == unit.dtype,
            "submit: the update has the planned shape and dtype");
    require(update.device == nullptr || engine_.options().transport == Transport::nccl,
            "submit: updates on devices need the transport nccl");
    require(update.hessian_diagonal.size() == (unit.with_diagonal ? static_cast<std::size_t>(unit.cols) : 0),
            "submit: the update carries diag(H) where the plan says so, and only there");
  }

  /// What travels, in the device's memory: where the backend packed it, or brought there now.
  void to_device(Delivery& delivery, const wire::MatrixUpdate& update) const {
    const wire::PackedMatrix& matrix = update.matrix;
    const wire::DeviceLayout layout = wire::device_layout(matrix.rows, matrix.cols, matrix.kept, matrix.dtype,
                                                          !update.hessian_diagonal.empty());
    DevicePort& port = *engine_.options().device->port;
    if (update.device == nullptr) {
      std::vector<std::byte> image = wire::device_image(update);
      if (engine_.options().before_send) engine_.options().before_send(image);
      delivery.device_memory = port.allocate(layout.bytes);
      port.upload(image, delivery.device_memory.get());
    } else {
      delivery.device_memory = update.device->memory;
      std::array<std::byte, wire::kHeaderBytes> head{};
      wire::write_device_header(update, head);
      port.upload(head, delivery.device_memory.get());
      if (!update.hessian_diagonal.empty())
        port.upload(std::as_bytes(std::span(update.hessian_diagonal)),
                    delivery.device_memory.get() + layout.diagonal);
    }
    delivery.on_device = {delivery.device_memory.get(), static_cast<std::size_t>(layout.bytes)};
  }

  [[nodiscard]] Delivery describe_update(std::size_t index, const wire::MatrixUpdate& update) const {
    Delivery delivery;
    Announcement& said = delivery.said;
    said.client = update.client;
    said.kept = update.matrix.kept;
    said.report = update.report;
    said.largest = update.device != nullptr ? update.device->largest : wire::largest_magnitude(update.matrix);
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

  void check_summary(std::size_t index, const UpdateSummary& said) const {
    const PlannedUnit& unit = engine_.plan().unit(index);
    require(said.kept >= 0 && said.kept <= unit.rows * unit.cols, "submit_later: 0 <= kept <= weights");
    require(std::isfinite(said.largest) && said.largest >= 0 && (said.kept > 0 || said.largest == 0),
            "submit_later: the largest value is finite and >= 0, and 0 where nothing is kept");
    require(std::isfinite(said.largest_diagonal) && said.largest_diagonal >= 0 &&
                (unit.with_diagonal || said.largest_diagonal == 0),
            "submit_later: the largest diagonal element is finite and >= 0, and 0 where none travels");
  }

  Engine engine_;
};

namespace {

/// Of what owners, or nodes, must agree on.
std::int64_t fingerprint_of(const ExchangeOptions& options) {
  const aggregate::MergeRules& rules = options.rules;
  const std::string text = fmt::format("{} {} {} {} {} {} {} {}", static_cast<int>(rules.averaging),
                                       rules.expand, static_cast<int>(rules.tie), rules.sparsity, rules.keep,
                                       rules.group, options.spread_writing, fmt::join(options.leaders, " "));
  return static_cast<std::int64_t>(checksum(std::as_bytes(std::span(text))) >> 1);
}

/// All ranks must have the same plan and options: the protocol leans on it.
void check_same_everywhere(Communicator& communicator, const ExchangePlan& plan,
                           const ExchangeOptions& options) {
  const std::int64_t own = PlanIndex(plan, communicator.size()).fingerprint() ^ (options.chunk_bytes << 8) ^
                           (options.message_limit << 4) ^
                           (static_cast<std::int64_t>(options.transport) << 2) ^
                           (static_cast<std::int64_t>(options.topology) << 32) ^ fingerprint_of(options) ^
                           std::bit_cast<std::int64_t>(options.deadline_seconds);
  const std::int64_t largest = communicator.maximum(own);
  const std::int64_t smallest = -communicator.maximum(-own);
  require(
      largest == smallest,
      "Exchange: all ranks give the same plan, transport, topology, rules, chunk_bytes, message_limit and "
      "deadline");
}

void check_nodes(const Communicator& communicator, const ExchangePlan& plan, const ExchangeOptions& options) {
  require(options.transport == Transport::reduce, "Exchange: the topology nodes needs the transport reduce");
  require(std::ssize(options.leaders) == communicator.size(), "Exchange: nodes: a leader for every rank");
  for (std::size_t rank = 0; rank < options.leaders.size(); ++rank) {
    const int leader = options.leaders[rank];
    require(0 <= leader && leader <= static_cast<int>(rank) &&
                options.leaders[static_cast<std::size_t>(leader)] == leader,
            "Exchange: nodes: the lowest rank of each node leads it");
  }
  require(options.node_memory != nullptr, "Exchange: nodes: memory that ranks share");
  for (const PlannedUnit& unit : plan.units)
    require(aggregate::SharedMerge::bytes(unit.rows, unit.cols) <= options.node_memory->state_bytes(),
            "Exchange: nodes: shared memory for the largest unit");
}

/// Whether this rank has what it needs for the transport nccl.
bool takes_part(const Communicator& communicator, const ExchangePlan& plan, const ExchangeOptions& options) {
  const bool sends =
      std::count(plan.rank_of_client.begin(), plan.rank_of_client.end(), communicator.rank()) > 0;
  if (communicator.rank() != 0 && !sends) return true;
  return options.device != nullptr && options.device->port != nullptr && options.device->link != nullptr;
}

/// What one rank can see of its own arguments.
void check_arguments(const Communicator& communicator, const ExchangePlan& plan,
                     const ExchangeOptions& options, const Exchange::OnCompleted& on_completed) {
  require(options.window_blocks >= 1, "Exchange: window_blocks >= 1");
  require(options.chunk_bytes >= 1, "Exchange: chunk_bytes >= 1");
  require(options.message_limit >= 1 && options.message_limit <= kMessageLimit,
          "Exchange: 1 <= message_limit <= 2^30");
  require(options.deadline_seconds >= 0 && std::isfinite(options.deadline_seconds),
          "Exchange: the deadline is a finite number of seconds >= 0");
  require(options.deadline_seconds == 0 || options.transport != Transport::reduce,
          "Exchange: a deadline needs the transport gather or nccl");
  require(options.transport != Transport::nccl || takes_part(communicator, plan, options),
          "Exchange: the transport nccl needs a device port and link on the root and on ranks with clients");
  require(options.topology != Topology::owners || options.transport == Transport::gather,
          "Exchange: the topology owners needs the transport gather");
  if (options.topology == Topology::nodes) check_nodes(communicator, plan, options);
  require(!options.spread_writing || options.topology == Topology::owners,
          "Exchange: only owners spread the writing");
  require((communicator.rank() != 0 && !options.spread_writing) || on_completed,
          "Exchange: the root, and each writer, has a callback");
}

}  // namespace

/// A rank that cannot go along must not leave the others waiting in an exchange: they agree before any
/// begins.
Exchange::Exchange(Communicator& communicator, ExchangePlan plan, ExchangeOptions options,
                   OnCompleted on_completed, Provider provider) {
  communicator.together([&] { check_arguments(communicator, plan, options, on_completed); });
  check_same_everywhere(communicator, plan, options);
  communicator.together([&] {
    impl_ = std::make_unique<Impl>(communicator, std::move(plan), std::move(options), std::move(on_completed),
                                   std::move(provider));
  });
  impl_->start();
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
void Exchange::submit_later(std::size_t index, std::vector<UpdateSummary> summaries, MakeUpdate make,
                            MakeSlices slices) {
  impl_->submit_later(index, std::move(summaries), std::move(make), std::move(slices));
}
Boundary Exchange::at_boundary(std::uint32_t block) {
  return impl_->at_boundary(block);
}
void Exchange::request_stop() {
  impl_->wish(Boundary::stop);
}
void Exchange::request_save() {
  impl_->wish(Boundary::save);
}
std::optional<std::uint32_t> Exchange::stopped_at() const {
  return impl_->facts().stopped_at();
}
std::uint32_t Exchange::durable_block() const {
  return impl_->facts().durable_block();
}
void Exchange::drop(std::uint32_t client, std::uint32_t block, std::string reason) {
  impl_->drop(client, block, std::move(reason));
}
bool Exchange::is_dropped(std::uint32_t client) const {
  return impl_->is_dropped(client);
}
std::vector<Dropped> Exchange::dropped() const {
  return impl_->facts().dropped();
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
