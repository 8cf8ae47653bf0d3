// SPDX-License-Identifier: Apache-2.0
// The emulated NCCL, and the few calls of the CUDA runtime that a link makes. One communicator at a time.
#include "nccl.h"

#include "fedspallm/comm/device.hpp"

#include <mpi.h>

#include "comm/nccl/nccl_api.hpp"
#include "emulated_nccl.hpp"
#include <cstring>
#include <deque>
#include <set>
#include <utility>

namespace {

constexpr int kTag = 78;
constexpr int kPolls = 3;  // that a call stays in progress

struct Operation {
  bool sends;
  void* memory;
  std::size_t bytes;
  int peer;
};
struct Group {
  std::vector<Operation> operations;
  std::vector<MPI_Request> requests;
  bool started = false;
};

}  // namespace

struct ncclComm {
  int rank = 0;
  int polls = 0;  // left in progress
  std::vector<Operation> open;
  bool closing = false;      // an open group was ended and is still in progress
  std::deque<Group> stream;  // one after the other, as a stream has it
  int launched = 0, finished = 0;
};

namespace {

ncclComm* current = nullptr;
int group_depth = 0;
ncclResult_t group_error = ncclSuccess;  // of a call in the open group

int world(int peer) {
  return emulation::nccl().ranks[static_cast<std::size_t>(peer)];
}

/// As NCCL has it: a message to oneself needs both of its ends in the same group.
bool valid(const std::vector<Operation>& operations, int own) {
  std::set<std::pair<int, bool>> seen;
  for (const Operation& one : operations)
    if (one.bytes == 0 || !seen.emplace(one.peer, one.sends).second) return false;
  return seen.contains({own, true}) == seen.contains({own, false});
}

void start(ncclComm& comm, Group& group) {
  group.started = true;
  const Operation* to_self = nullptr;
  const Operation* from_self = nullptr;
  for (const Operation& one : group.operations) {
    if (one.peer == comm.rank) {
      (one.sends ? to_self : from_self) = &one;
      continue;
    }
    MPI_Request request = MPI_REQUEST_NULL;
    const int count = static_cast<int>(one.bytes);
    if (one.sends) {
      MPI_Isend(one.memory, count, MPI_BYTE, world(one.peer), kTag, MPI_COMM_WORLD, &request);
    } else {
      MPI_Irecv(one.memory, count, MPI_BYTE, world(one.peer), kTag, MPI_COMM_WORLD, &request);
    }
    group.requests.push_back(request);
  }
  if (to_self != nullptr) std::memcpy(from_self->memory, to_self->memory, to_self->bytes);
}

void progress(ncclComm& comm) {
  while (!comm.stream.empty()) {
    Group& group = comm.stream.front();
    if (!group.started) start(comm, group);
    int done = 0;
    MPI_Testall(static_cast<int>(group.requests.size()), group.requests.data(), &done, MPI_STATUSES_IGNORE);
    if (done == 0) return;
    comm.stream.pop_front();
    ++comm.finished;
  }
}

ncclResult_t enqueue(bool sends, void* memory, std::size_t count, int peer, ncclComm_t comm) {
  if (group_depth == 0 || comm != current || comm->polls > 0) return ncclInvalidUsage;
  if (sends && emulation::nccl().refuse_sends) return group_error = ncclRemoteError;
  comm->open.push_back({sends, memory, count, peer});
  return ncclSuccess;
}

}  // namespace

struct CUevent_st {
  int groups = -1;  // that went out before it
};

namespace emulation {
Nccl& nccl() {
  static Nccl instance;
  return instance;
}
}  // namespace emulation

ncclResult_t ncclGetVersion(int* version) {
  *version = 99999;
  return ncclSuccess;
}
ncclResult_t ncclGetUniqueId(ncclUniqueId* id) {
  std::memset(id, 7, sizeof *id);
  return ncclSuccess;
}
ncclResult_t ncclCommInitRankConfig(ncclComm_t* comm, int ranks, ncclUniqueId id, int rank,
                                    ncclConfig_t* config) {
  if (config->blocking != 0 || id.internal[127] != 7 || ranks != std::ssize(emulation::nccl().ranks) ||
      current != nullptr)
    return ncclInvalidUsage;
  current = *comm = new ncclComm;
  current->rank = rank;
  current->polls = kPolls;
  ++emulation::nccl().communicators;
  return ncclInProgress;
}
ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t* state) {
  const emulation::Nccl& wishes = emulation::nccl();
  if (wishes.fail_after_groups >= 0 && comm->launched >= wishes.fail_after_groups) {
    *state = ncclRemoteError;
    return ncclSuccess;
  }
  const bool waits = wishes.never_ready || (comm->polls > 0 && --comm->polls > 0);
  if (!waits && comm->closing) {
    comm->stream.push_back({std::move(comm->open), {}, false});
    comm->open.clear();
    ++comm->launched;
    comm->closing = false;
  }
  *state = waits ? ncclInProgress : ncclSuccess;
  return ncclSuccess;
}
ncclResult_t ncclCommFinalize(ncclComm_t comm) {
  comm->polls = kPolls;
  return comm->stream.empty() ? ncclInProgress : ncclInvalidUsage;
}
ncclResult_t ncclCommDestroy(ncclComm_t comm) {
  ++emulation::nccl().destroyed;
  current = nullptr;
  delete comm;
  return ncclSuccess;
}
ncclResult_t ncclCommAbort(ncclComm_t comm) {
  if (group_depth != 0) return ncclInvalidUsage;  // NCCL says nothing, and aborts when the group ends
  ++emulation::nccl().aborted;
  current = nullptr;
  delete comm;
  return ncclSuccess;
}
const char* ncclGetErrorString(ncclResult_t result) {
  return result == ncclRemoteError ? "remote process exited" : "invalid usage";
}
const char* ncclGetLastError(ncclComm_t) {
  return "";
}
ncclResult_t ncclGroupStart() {
  ++group_depth;
  return ncclSuccess;
}
ncclResult_t ncclGroupEnd() {
  if (group_error != ncclSuccess) {
    if (--group_depth == 0 && current != nullptr) current->open.clear();
    return std::exchange(group_error, ncclSuccess);
  }
  if (--group_depth != 0 || current == nullptr || !valid(current->open, current->rank))
    return ncclInvalidUsage;
  emulation::Nccl& seen = emulation::nccl();
  ++seen.groups;
  seen.largest_group = std::max(seen.largest_group.load(), static_cast<int>(current->open.size()));
  current->closing = true;
  current->polls = kPolls;
  return ncclInProgress;
}
ncclResult_t ncclSend(const void* memory, std::size_t count, ncclDataType_t, int peer, ncclComm_t comm,
                      cudaStream_t) {
  return enqueue(true, const_cast<void*>(memory), count, peer, comm);
}
ncclResult_t ncclRecv(void* memory, std::size_t count, ncclDataType_t, int peer, ncclComm_t comm,
                      cudaStream_t) {
  return enqueue(false, memory, count, peer, comm);
}

const char* cudaGetErrorString(cudaError_t) {
  return "an emulated error";
}
cudaError_t cudaSetDevice(int) {
  return cudaSuccess;
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  static char any_object;
  *stream = reinterpret_cast<cudaStream_t>(&any_object);
  return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t) {
  return cudaSuccess;
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  *event = new CUevent_st;
  return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete event;
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t) {
  event->groups = current->launched;
  return cudaSuccess;
}
cudaError_t cudaEventQuery(cudaEvent_t event) {
  progress(*current);
  return current->finished >= event->groups ? cudaSuccess : cudaErrorNotReady;
}

namespace fedspallm::comm {

std::shared_ptr<const NcclApi> load_nccl() {
  const auto api = std::make_shared<NcclApi>();
  *api = {.get_version = ncclGetVersion,
          .get_unique_id = ncclGetUniqueId,
          .init = ncclCommInitRankConfig,
          .async_error = ncclCommGetAsyncError,
          .finalize = ncclCommFinalize,
          .destroy = ncclCommDestroy,
          .abort = ncclCommAbort,
          .error_string = ncclGetErrorString,
          .last_error = ncclGetLastError,
          .group_start = ncclGroupStart,
          .group_end = ncclGroupEnd,
          .send = ncclSend,
          .receive = ncclRecv};
  return api;
}
NcclLibrary nccl_library() {
  return {99999, ""};
}
bool nccl_built() {
  return true;
}

}  // namespace fedspallm::comm
