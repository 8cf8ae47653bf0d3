// SPDX-License-Identifier: Apache-2.0
#include "kernels.hpp"

#include "../base/kernel_sets.hpp"

namespace fedspallm::wire {

FEDSPALLM_KERNEL_SETS(Kernels, kernels_for)

}  // namespace fedspallm::wire
