// SPDX-License-Identifier: Apache-2.0
// NCCL's library, opened at run time.
#include "fedspallm/base/error.hpp"
#include "fedspallm/comm/device.hpp"

#include <dlfcn.h>

#include "nccl_api.hpp"

namespace fedspallm::comm {

namespace {

constexpr const char* kLibrary = "libnccl.so.2";
// Calls of 2.14 and later are used; older ones know no communicators that do not block.
constexpr int kOldest = 21400;

template <class Function>
void find(void* library, const char* name, Function& function) {
  function = reinterpret_cast<Function>(dlsym(library, name));
  check<ResourceError>(function != nullptr,
                       fmt::format("{} has no {}: it is older than NCCL 2.14", kLibrary, name));
}

}  // namespace

std::shared_ptr<const NcclApi> load_nccl() {
  void* library = dlopen(kLibrary, RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    const char* said = dlerror();
    throw ResourceError(
        fmt::format("{} cannot be loaded ({}); install NCCL 2 or add its folder to LD_LIBRARY_PATH", kLibrary,
                    said == nullptr ? "no reason given" : said));
  }
  const auto api = std::make_shared<NcclApi>();
  // Never unloaded before the end of the process: its threads may outlive the last communicator.
  api->library = std::shared_ptr<void>(library, [](void*) {});
  find(library, "ncclGetVersion", api->get_version);
  find(library, "ncclGetUniqueId", api->get_unique_id);
  find(library, "ncclCommInitRankConfig", api->init);
  find(library, "ncclCommGetAsyncError", api->async_error);
  find(library, "ncclCommFinalize", api->finalize);
  find(library, "ncclCommDestroy", api->destroy);
  find(library, "ncclCommAbort", api->abort);
  find(library, "ncclGetErrorString", api->error_string);
  find(library, "ncclGetLastError", api->last_error);
  find(library, "ncclGroupStart", api->group_start);
  find(library, "ncclGroupEnd", api->group_end);
  find(library, "ncclSend", api->send);
  find(library, "ncclRecv", api->receive);
  int version = 0;
  check_nccl(*api, nullptr, api->get_version(&version), "ncclGetVersion");
  check<ResourceError>(version >= kOldest, fmt::format("{} is version {}, expected {} (2.14) or later",
                                                       kLibrary, version, kOldest));
  return api;
}

bool nccl_built() {
  return true;
}

NcclLibrary nccl_library() {
  try {
    NcclLibrary found;
    const auto api = load_nccl();
    check_nccl(*api, nullptr, api->get_version(&found.version), "ncclGetVersion");
    return found;
  } catch (const Error& error) {
    return {0, error.what()};
  }
}

}  // namespace fedspallm::comm
