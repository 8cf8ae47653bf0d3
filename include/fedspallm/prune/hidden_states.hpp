// SPDX-License-Identifier: Apache-2.0
// Purpose: where one client's hidden states are: on the device for good, or in host memory, from where they
// come into a slot on the device when they are used. Clients of a rank take turns, so one slot serves many.
// Non-goals: deciding who stays (app), saving them to disk.
#pragma once

#include "fedspallm/backend/backend.hpp"

#include <cstdint>
#include <memory>

namespace fedspallm::prune {

class HiddenStates;

/// Room on the device for the largest of the states that use it in turn; it grows when a larger one comes.
class HiddenSlot {
 public:
  explicit HiddenSlot(backend::Backend& backend) : backend_(backend) {}
  HiddenSlot(const HiddenSlot&) = delete;
  HiddenSlot& operator=(const HiddenSlot&) = delete;

 private:
  friend class HiddenStates;
  backend::Backend& backend_;
  backend::Tensor memory_;
  HiddenStates* resident_ = nullptr;
};

class HiddenStates {
 public:
  /// @param slot  null: on the device for good. Backend and slot outlive this. @pre rows, cols >= 1
  HiddenStates(backend::Backend& backend, std::int64_t rows, std::int64_t cols, HiddenSlot* slot);
  ~HiddenStates();
  HiddenStates(const HiddenStates&) = delete;
  HiddenStates& operator=(const HiddenStates&) = delete;

  [[nodiscard]] std::int64_t rows() const { return rows_; }
  [[nodiscard]] std::int64_t cols() const { return cols_; }
  /// On the device, to read and to write; good until other states of the same slot are viewed. What was
  /// written is kept. Undefined before it was written once.
  [[nodiscard]] backend::View view();

 private:
  void leave();

  backend::Backend& backend_;
  std::int64_t rows_, cols_;
  HiddenSlot* slot_;
  backend::Tensor own_;          // without a slot
  std::shared_ptr<float> host_;  // with one
  bool written_ = false;         // host_ holds something
};

}  // namespace fedspallm::prune
