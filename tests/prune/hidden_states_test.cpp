// SPDX-License-Identifier: Apache-2.0
// Hidden states that take turns in a slot on the device keep what was written, whoever was there meanwhile.
#include "fedspallm/prune/hidden_states.hpp"

#include "fedspallm/base/error.hpp"

#include <gtest/gtest.h>

#include "support/backends.hpp"
#include <vector>

namespace fedspallm::prune {
namespace {

class Hidden : public testing::TestWithParam<std::string> {
 protected:
  static std::vector<float> values(std::int64_t size, float first) {
    std::vector<float> result;
    for (std::int64_t i = 0; i < size; ++i) result.push_back(first + static_cast<float>(i));
    return result;
  }
  void write(HiddenStates& states, float first) {
    backend_->copy_in(std::span<const float>(values(states.rows() * states.cols(), first)), states.view());
  }
  [[nodiscard]] std::vector<float> read(HiddenStates& states) {
    std::vector<float> result(static_cast<std::size_t>(states.rows() * states.cols()));
    backend_->copy_out(states.view(), std::span<float>(result));
    return result;
  }
  std::unique_ptr<backend::Backend> backend_ = test::make_backend(GetParam());
};

TEST_P(Hidden, of_several_clients_survive_taking_turns) {
  HiddenSlot slot(*backend_);
  HiddenStates small(*backend_, 2, 3, &slot), large(*backend_, 7, 5, &slot), stays(*backend_, 4, 4, nullptr);
  write(small, 1);
  write(stays, 500);
  write(large, 100);  // the slot grows
  for (int turn = 0; turn < 3; ++turn) {
    const auto first = static_cast<float>(turn);
    EXPECT_EQ(read(small), values(6, 1 + first));
    EXPECT_EQ(read(large), values(35, 100 + first));
    EXPECT_EQ(read(stays), values(16, 500));
    write(small, 2 + first);
    write(large, 101 + first);
  }
}

TEST_P(Hidden, have_the_shape_and_the_slot_holds_one_at_a_time) {
  HiddenSlot slot(*backend_);
  const std::int64_t before = backend_->allocated_bytes();
  HiddenStates one(*backend_, 20, 30, &slot), two(*backend_, 30, 20, &slot), three(*backend_, 10, 10, &slot);
  for (HiddenStates* states : {&one, &two, &three}) write(*states, 0);
  EXPECT_EQ(one.view().rows(), 20);
  EXPECT_EQ(two.view().cols(), 20);
  EXPECT_EQ(backend_->allocated_bytes() - before, 600 * 4);
}

TEST_P(Hidden, may_be_destroyed_while_they_are_in_the_slot) {
  HiddenSlot slot(*backend_);
  HiddenStates one(*backend_, 2, 2, &slot);
  write(one, 3);
  {
    HiddenStates gone(*backend_, 2, 2, &slot);
    write(gone, 9);
  }
  EXPECT_EQ(read(one), values(4, 3));
}

TEST_P(Hidden, are_never_empty) {
  EXPECT_THROW(HiddenStates(*backend_, 0, 3, nullptr), LogicError);
}

INSTANTIATE_TEST_SUITE_P(Backends, Hidden, testing::ValuesIn(test::backend_names()));

}  // namespace
}  // namespace fedspallm::prune
