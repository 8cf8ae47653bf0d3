// SPDX-License-Identifier: Apache-2.0
#include "overlay.hpp"

#include "fedspallm/base/error.hpp"

namespace fedspallm::app {

void apply_record(backend::Backend& backend, const store::BlockRecord& record, model::BlockWeights& weights) {
  require(record.matrices.size() == weights.matrices.size(),
          "apply_record: one record per matrix of the block");
  for (std::size_t matrix = 0; matrix < record.matrices.size(); ++matrix) {
    const wire::PackedMatrix& packed = record.matrices[matrix].matrix;
    if (!record.matrices[matrix].pruned) continue;
    backend.sparse().unpack(packed.bits, packed.values, packed.dtype, weights.matrices[matrix]);
  }
}

prune::PreviousMasks masks_of(const store::BlockRecord& record) {
  prune::PreviousMasks masks;
  for (const auto& matrix : record.matrices)
    masks.push_back(matrix.pruned ? matrix.matrix.bits : std::vector<std::uint64_t>{});
  return masks;
}

}  // namespace fedspallm::app
