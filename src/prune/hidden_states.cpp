// SPDX-License-Identifier: Apache-2.0
#include "fedspallm/prune/hidden_states.hpp"

#include "fedspallm/base/error.hpp"

namespace fedspallm::prune {

HiddenStates::HiddenStates(backend::Backend& backend, std::int64_t rows, std::int64_t cols, HiddenSlot* slot)
    : backend_(backend), rows_(rows), cols_(cols), slot_(slot) {
  require(rows >= 1 && cols >= 1, "HiddenStates: rows, cols >= 1");
  if (slot == nullptr) {
    own_ = backend.allocate(rows, cols);
  } else {
    host_ = backend.allocate_host(rows * cols);
  }
}

HiddenStates::~HiddenStates() {
  if (slot_ != nullptr && slot_->resident_ == this) slot_->resident_ = nullptr;
}

void HiddenStates::leave() {
  backend_.store(slot_->memory_.view().column_range(0, rows_ * cols_), host_.get());
  written_ = true;
  slot_->resident_ = nullptr;
}

backend::View HiddenStates::view() {
  if (slot_ == nullptr) return own_;
  const std::int64_t size = rows_ * cols_;
  if (slot_->resident_ != this) {
    if (slot_->resident_ != nullptr) slot_->resident_->leave();
    if (slot_->memory_.view().size() < size) {
      slot_->memory_ = backend::Tensor{};  // first: the old and the new one need not fit together
      slot_->memory_ = backend_.allocate(1, size);
    }
    if (written_) backend_.restore(host_.get(), slot_->memory_.view().column_range(0, size));
    slot_->resident_ = this;
  }
  return slot_->memory_.view().column_range(0, size).reshaped(rows_, cols_);
}

}  // namespace fedspallm::prune
