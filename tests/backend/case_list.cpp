// SPDX-License-Identifier: Apache-2.0
// The list itself. Shapes: empty, one element, below a block or vector, not divisible by anything, the real
// ones (SmolLM2: hidden 576, 9 heads of 64, 3 kv heads, intermediate 1536) scaled down to what the plain
// reference can do.
#include "cases.hpp"

namespace fedspallm::test {

namespace {

using Sizes = std::vector<std::vector<std::int64_t>>;

void append(std::vector<Case>& cases, const std::vector<std::string>& ops, const Sizes& sizes) {
  for (const std::string& op : ops) {
    for (const auto& size : sizes) {
      cases.push_back({op, size, 1 + cases.size(), false});
      cases.push_back({op, size, 1 + cases.size(), true});
    }
  }
}

void append_linear(std::vector<Case>& cases) {
  append(
      cases, {"linear", "linear:bias", "linear:add", "linear:bias_add"},
      {{0, 5, 3}, {3, 0, 4}, {4, 3, 0}, {1, 1, 1}, {7, 5, 3}, {33, 64, 17}, {130, 96, 801}, {261, 513, 97}});
  append(cases, {"linear"},
         {{512, 144, 192}, {4099, 12, 20}, {300, 192, 48}, {256, 1, 49}, {257, 1030, 1030}});
  append(cases, {"subtract_product"},
         {{0, 3, 2}, {2, 0, 3}, {2, 3, 0}, {1, 1, 1}, {5, 7, 3}, {64, 128, 100}, {300, 30, 801}});
  append(cases, {"gram"},
         {{0, 4}, {3, 0}, {1, 1}, {5, 3}, {40, 64}, {64, 193}, {513, 40}, {1100, 200}, {5, 1030}});
  append(cases, {"inverse_upper_factor"},
         {{0}, {1}, {2}, {17}, {127}, {128}, {129}, {200}, {256}, {390}, {576}});
}

void append_model(std::vector<Case>& cases) {
  const Sizes rectangles{{0, 4}, {1, 1}, {3, 5}, {2, 16}, {5, 31}, {17, 576}, {40, 1000}, {3, 9000}};
  append(cases,
         {"norm:rms", "norm:rms_in_place", "norm:layer", "norm:layer_bias", "silu_multiply", "activate:relu",
          "activate:gelu", "add"},
         rectangles);
  append(cases, {"token_nll"}, {{0, 4}, {1, 1}, {3, 5}, {9, 31}, {5, 4097}, {2, 49152}});
  append(cases, {"rope"}, {{0, 4, 2, 3}, {1, 1, 1, 1}, {2, 5, 3, 4}, {2, 7, 2, 17}, {3, 20, 9, 32}});
  append(cases, {"causal_attention"},
         {{0, 4, 2, 1, 8, 0},
          {1, 1, 1, 1, 1, 0},
          {2, 5, 4, 2, 3, 0},
          {1, 33, 3, 3, 16, 0},
          {2, 129, 6, 2, 64, 0},
          {1, 300, 3, 1, 32, 0},
          {2, 40, 2, 1, 16, 1},
          {1, 200, 2, 2, 8, 7},
          {1, 300, 2, 1, 16, 130},
          {1, 257, 1, 1, 64, 400},
          {1, 128, 2, 1, 20, 128}});
  append(cases, {"first_non_finite:nan", "first_non_finite:infinity"},
         {{0, 4, -1},
          {1, 1, -1},
          {1, 1, 0},
          {3, 50, 149},
          {5, 1000, 17},
          {9, 1001, 4500},
          {40, 1000, -1},
          {3, 20000, 40010}});
}

void append_prune(std::vector<Case>& cases) {
  const Sizes rectangles{{0, 4}, {1, 1}, {3, 5}, {17, 31}, {65, 128}, {40, 1000}};
  append(cases,
         {"saliency", "weighted_magnitude", "prefer_dropped", "apply_mask", "round_to_dtype:bf16",
          "round_to_dtype:f16", "round_to_dtype:f32", "squares", "copies"},
         rectangles);
  append(cases, {"squares", "copies"}, {{3, 20001}});
  append(cases, {"select_smallest", "select_smallest:ties"},
         {{0, 4, 0},
          {1, 1, 0},
          {1, 1, 1},
          {3, 5, 7},
          {65, 128, 4160},
          {65, 128, 0},
          {65, 128, 8320},
          {64, 1000, 1},
          {300, 400, 60001},
          {2, 70000, 99999}});
  append(cases, {"select_smallest_per_row", "select_smallest_per_row:ties"},
         {{0, 4}, {1, 1}, {3, 5}, {40, 576}, {9, 3000}});
  append(cases, {"select_published"},
         {{1, 1, 0}, {3, 5, 7}, {65, 128, 4160}, {65, 128, 8319}, {300, 400, 60001}});
  append(cases, {"obs_block"},
         {{0, 4}, {1, 1}, {3, 5}, {17, 16}, {64, 17}, {65, 33}, {130, 128}, {100, 100}, {7, 200}});
  append(cases, {"obs_block_n_of_m", "obs_block_n_of_m:previous"},
         {{0, 4, 2, 4},
          {1, 1, 1, 1},
          {3, 6, 1, 3},
          {65, 32, 2, 4},
          {70, 128, 4, 8},
          {33, 128, 2, 4},
          {10, 35, 0, 5},
          {10, 36, 6, 6},
          {20, 96, 20, 32}});
  append(cases, {"select_n_of_m"},
         {{0, 4, 2, 4}, {1, 1, 0, 1}, {3, 6, 1, 3}, {65, 128, 2, 4}, {9, 64, 1, 2}, {70, 128, 4, 8}});
  append(cases, {"pack:f32", "pack:f16", "pack:bf16"},
         {{0, 4, 50},
          {1, 1, 100},
          {1, 1, 0},
          {3, 5, 50},
          {8, 8, 50},
          {5, 13, 100},
          {65, 100, 0},
          {33, 77, 90},
          {200, 300, 50},
          {3, 17001, 50}});
}

}  // namespace

std::vector<Case> all_cases() {
  std::vector<Case> cases;
  append_linear(cases);
  append_model(cases);
  append_prune(cases);
  return cases;
}

}  // namespace fedspallm::test
