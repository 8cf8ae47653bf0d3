// SPDX-License-Identifier: Apache-2.0
#include "owners.hpp"

#include <algorithm>
#include <utility>

namespace fedspallm::comm {

Owners::Owners(const RankContext& context, Worker& adder, const std::function<void()>& on_error,
               Exchange::OnCompleted on_completed, OwnClients own)
    : context_(context),
      own_(std::move(own)),
      finisher_(std::make_unique<Worker>(on_error)),
      writing_(std::make_unique<Worker>(on_error)),
      sender_(context, adder, own_.through),
      merger_(context, adder, *finisher_, sender_,
              [this](std::size_t index, const std::shared_ptr<FinishedSlice>& slice) {
                writer_.finished(index, slice);
              }),
      writer_(context, *writing_, std::move(on_completed)) {}

Owners::~Owners() {
  abort();
  finisher_.reset();
  writing_.reset();
}

void Owners::on(int, const SliceMessage& message) {
  const auto index = static_cast<std::size_t>(message.unit);
  check<PeerError>(index < context_.plan.size(), "the root began a merge that is not of this plan");
  std::vector<std::uint32_t> clients;
  for (const std::uint32_t client : context_.plan.unit(index).clients)
    if (context_.plan.rank_of(client) == context_.link.rank() &&
        !std::binary_search(message.absent.begin(), message.absent.end(), client))
      clients.push_back(client);
  if (const auto later = own_.later(index)) {
    check<PeerError>(later->later.size() == clients.size(),
                     "the root began a merge of other clients than had announced it");
    sender_.offer(index, later);
  } else {
    std::vector<CutUpdate> updates;
    for (const std::uint32_t client : clients) updates.push_back(own_.take(index, client));
    sender_.offer(index, std::move(updates));
  }
  merger_.begin(message);
}

void Owners::advance() {
  merger_.advance();
  writer_.advance();
}

void Owners::stop() {
  if (stopped_) return;
  stopped_ = true;
  merger_.stop();
  writer_.stop();
  abort();
  for (int rank = 0; rank < context_.link.size(); ++rank)
    if (rank != context_.link.rank()) context_.link.post(rank, QuietMessage());
  release_if_all_stopped();
}

void Owners::on(int, const QuietMessage&) {
  ++quiet_ranks_;
  release_if_all_stopped();
}

void Owners::release_if_all_stopped() {
  if (all_stopped()) sender_.release();
}

void Owners::abort() {
  sender_.abort();
  merger_.abort();
  writer_.abort();
}

}  // namespace fedspallm::comm
