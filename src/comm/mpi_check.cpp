// SPDX-License-Identifier: Apache-2.0
#include "mpi_check.hpp"

#include <array>
#include <limits>
#include <string>

namespace fedspallm::comm {

void check_mpi(int code, const char* function, std::source_location location) {
  if (code == MPI_SUCCESS) return;
  std::array<char, MPI_MAX_ERROR_STRING> text{};
  int length = 0;
  int error_class = MPI_ERR_UNKNOWN;
  MPI_Error_string(code, text.data(), &length);
  MPI_Error_class(code, &error_class);
  throw PeerError(fmt::format("{} failed: {} (error class {}, code {})", function,
                              std::string(text.data(), static_cast<std::size_t>(length)), error_class, code),
                  location);
}

int checked_count(std::int64_t count, std::source_location location) {
  if (count < 0 || count > std::numeric_limits<int>::max()) {
    throw LogicError(fmt::format("a count of {} does not fit an MPI call (0 to {}); it must be split before",
                                 count, std::numeric_limits<int>::max()),
                     location);
  }
  return static_cast<int>(count);
}

}  // namespace fedspallm::comm
