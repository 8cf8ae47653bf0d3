// SPDX-License-Identifier: Apache-2.0
// Purpose: asks the system for huge pages behind a large block of memory that is about to be filled for the
// first time. With small pages a third of a merge's time goes to page faults. A request only: nothing depends
// on it.
#pragma once

#include <cstddef>

namespace fedspallm::aggregate {

/// @param memory  allocated and not yet written; small blocks are left alone
void ask_for_huge_pages(void* memory, std::size_t bytes) noexcept;

}  // namespace fedspallm::aggregate
