// SPDX-License-Identifier: Apache-2.0
// bench: kernels beside their limits.
#include "commands.hpp"

namespace fedspallm::app {

ExitStatus run_bench(const BenchOptions& options) {
  throw ConfigError(fmt::format("bench: unknown benchmark '{}'", options.name));
}

}  // namespace fedspallm::app
