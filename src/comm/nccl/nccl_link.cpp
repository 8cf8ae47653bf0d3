// SPDX-License-Identifier: Apache-2.0
#include "nccl_link.hpp"

#include "fedspallm/base/error.hpp"

#include <algorithm>
#include <set>
#include <thread>
#include <utility>

namespace fedspallm::comm {

namespace {

constexpr std::chrono::seconds kCloseLimit{10};
constexpr std::chrono::milliseconds kPollPause{1};

}  // namespace

NcclLink::NcclLink(std::shared_ptr<const NcclApi> api, const ncclUniqueId& id, std::span<const int> ranks,
                   int rank, int device)
    : api_(std::move(api)), ranks_(ranks.begin(), ranks.end()), device_(device) {
  own_ = peer_of(rank);
  check_cuda(cudaSetDevice(device_), "cudaSetDevice");
  try {
    check_cuda(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    check_nccl(*api_, nullptr, api_->init(&comm_, static_cast<int>(ranks_.size()), id, own_, &config),
               "ncclCommInitRankConfig");
  } catch (...) {
    abort();
    throw;
  }
}

NcclLink::~NcclLink() {
  if (comm_ != nullptr && idle() && closed_in_time()) {
    static_cast<void>(api_->destroy(comm_));
    comm_ = nullptr;
  }
  abort();
}

/// A finished communicator has to be closed by all ranks; one that is gone must not hold this one up.
bool NcclLink::closed_in_time() noexcept {
  ncclResult_t state = api_->finalize(comm_);
  const auto end = std::chrono::steady_clock::now() + kCloseLimit;
  while (state == ncclInProgress && std::chrono::steady_clock::now() < end) {
    std::this_thread::sleep_for(kPollPause);
    if (api_->async_error(comm_, &state) != ncclSuccess) return false;
  }
  return state == ncclSuccess;
}

void NcclLink::abort() noexcept {
  static_cast<void>(cudaSetDevice(device_));
  if (comm_ != nullptr) static_cast<void>(api_->abort(comm_));
  comm_ = nullptr;
  if (launching_) running_.push_back(std::move(*launching_));
  launching_.reset();
  for (Group& group : running_)
    if (group.event != nullptr) free_events_.push_back(group.event);
  running_.clear();
  queue_.clear();
  to_self_.clear();
  from_self_.clear();
  for (cudaEvent_t event : free_events_) static_cast<void>(cudaEventDestroy(event));
  free_events_.clear();
  if (stream_ != nullptr) static_cast<void>(cudaStreamDestroy(stream_));
  stream_ = nullptr;
}

/// Whether the communicator is still at what it was last asked to do.
bool NcclLink::in_progress(const char* call) {
  check<PeerError>(comm_ != nullptr, "NCCL: the communicator was given up after an earlier error");
  ncclResult_t state = ncclSuccess;
  check_nccl(*api_, comm_, api_->async_error(comm_, &state), "ncclCommGetAsyncError");
  check_nccl(*api_, comm_, state, call);
  return state == ncclInProgress;
}

bool NcclLink::ready() {
  return !in_progress("ncclCommInitRankConfig");
}

int NcclLink::peer_of(int rank) const {
  const auto found = std::lower_bound(ranks_.begin(), ranks_.end(), rank);
  require(found != ranks_.end() && *found == rank, "NcclLink: the rank takes part");
  return static_cast<int>(found - ranks_.begin());
}

void NcclLink::add(Operation operation) {
  if (operation.peer != own_) {
    queue_.push_back(std::move(operation));
    return;
  }
  (operation.sends ? to_self_ : from_self_).push_back(std::move(operation));
  if (to_self_.empty() || from_self_.empty()) return;
  queue_.push_back(std::move(to_self_.front()));
  queue_.push_back(std::move(from_self_.front()));
  to_self_.pop_front();
  from_self_.pop_front();
}

void NcclLink::send(int rank, std::span<const std::byte> device, Done done) {
  require(!device.empty(), "NcclLink::send: at least one byte");
  // NCCL does not write to what it sends.
  add({peer_of(rank), true, const_cast<std::byte*>(device.data()), device.size(), std::move(done)});
}

void NcclLink::receive(int rank, std::span<std::byte> device, Done done) {
  require(!device.empty(), "NcclLink::receive: at least one byte");
  add({peer_of(rank), false, device.data(), device.size(), std::move(done)});
}

/// What goes out together: from the front of the queue, at most one message to and one from each peer, so
/// that messages between two ranks keep their order.
std::vector<NcclLink::Operation> NcclLink::next_group() {
  std::vector<Operation> group;
  std::set<std::pair<int, bool>> taken;
  while (!queue_.empty() && taken.emplace(queue_.front().peer, queue_.front().sends).second) {
    group.push_back(std::move(queue_.front()));
    queue_.pop_front();
  }
  return group;
}

/// One group of calls. After an error it is ended all the same: abort() inside an open group would be put off
/// until its end, and NCCL's kernels would outlive the memory that they write to.
void NcclLink::submit(const std::vector<Operation>& operations) {
  check_nccl(*api_, comm_, api_->group_start(), "ncclGroupStart");
  ncclResult_t result = ncclSuccess;
  const char* call = "";
  for (const Operation& one : operations) {
    call = one.sends ? "ncclSend" : "ncclRecv";
    result = one.sends ? api_->send(one.memory, one.bytes, ncclUint8, one.peer, comm_, stream_)
                       : api_->receive(one.memory, one.bytes, ncclUint8, one.peer, comm_, stream_);
    if (result != ncclSuccess && result != ncclInProgress) break;
  }
  const ncclResult_t ended = api_->group_end();
  check_nccl(*api_, comm_, result, call);
  check_nccl(*api_, comm_, ended, "ncclGroupEnd");
}

/// Brings the next group on its way. False when there was nothing to do.
bool NcclLink::launch() {
  if (!launching_) {
    if (queue_.empty()) return false;
    launching_.emplace(Group{.operations = next_group()});
    submit(launching_->operations);
  }
  if (in_progress("ncclGroupEnd")) return false;
  if (free_events_.empty()) {
    cudaEvent_t event = nullptr;
    check_cuda(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "cudaEventCreateWithFlags");
    free_events_.push_back(event);
  }
  launching_->event = free_events_.back();
  free_events_.pop_back();
  running_.push_back(std::move(*launching_));
  launching_.reset();
  check_cuda(cudaEventRecord(running_.back().event, stream_), "cudaEventRecord");
  return true;
}

/// Groups end in the order in which they went out. False when none did.
bool NcclLink::finish_groups() {
  bool any = false;
  while (!running_.empty()) {
    const cudaError_t status = cudaEventQuery(running_.front().event);
    if (status == cudaErrorNotReady) break;
    check_cuda(status, "cudaEventQuery");
    const Group group = std::move(running_.front());
    running_.pop_front();
    free_events_.push_back(group.event);
    for (const Operation& one : group.operations) one.done();
    any = true;
  }
  return any;
}

bool NcclLink::poll() {
  if (queue_.empty() && !launching_ && running_.empty()) return false;
  check_cuda(cudaSetDevice(device_), "cudaSetDevice");
  if (!launching_ && !running_.empty()) static_cast<void>(in_progress("a transfer"));  // a peer that is gone
  const bool finished = finish_groups();
  const bool launched = launch();
  return finished || launched;
}

bool NcclLink::idle() const {
  return queue_.empty() && to_self_.empty() && from_self_.empty() && !launching_ && running_.empty();
}

namespace {

/// The number by which the ranks of a communicator find each other, from the root.
ncclUniqueId shared_id(Communicator& communicator) {
  std::vector<std::byte> bytes(sizeof(ncclUniqueId));
  communicator.together([&] {
    if (communicator.rank() != 0) return;
    ncclUniqueId id;
    const auto api = load_nccl();
    check_nccl(*api, nullptr, api->get_unique_id(&id), "ncclGetUniqueId");
    std::copy_n(reinterpret_cast<const std::byte*>(&id), sizeof id, bytes.begin());
  });
  communicator.broadcast(bytes);
  ncclUniqueId id;
  require(bytes.size() == sizeof id, "make_nccl_link: the same NCCL on all ranks");
  std::copy_n(bytes.begin(), sizeof id, reinterpret_cast<std::byte*>(&id));
  return id;
}

}  // namespace

std::unique_ptr<DeviceLink> make_nccl_link(Communicator& communicator, std::span<const int> ranks, int device,
                                           double limit_seconds) {
  require(limit_seconds > 0, "make_nccl_link: limit_seconds > 0");
  const ncclUniqueId id = shared_id(communicator);
  std::unique_ptr<NcclLink> link;
  communicator.together([&] {
    if (!std::binary_search(ranks.begin(), ranks.end(), communicator.rank())) return;
    const auto begin = std::chrono::steady_clock::now();
    link = std::make_unique<NcclLink>(load_nccl(), id, ranks, communicator.rank(), device);
    while (!link->ready()) {
      const std::chrono::duration<double> waited = std::chrono::steady_clock::now() - begin;
      if (waited.count() > limit_seconds) {
        link->abort();
        throw PeerError(
            fmt::format("NCCL: the ranks did not find each other within {} s (NCCL_DEBUG=INFO says more; "
                        "NCCL_SOCKET_IFNAME chooses the network)",
                        limit_seconds));
      }
      std::this_thread::sleep_for(kPollPause);
    }
  });
  return link;
}

}  // namespace fedspallm::comm
