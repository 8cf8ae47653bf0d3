// SPDX-License-Identifier: Apache-2.0
// Purpose: the smallest model that the program accepts: one block, 60 weights. Non-goal: real values.
#pragma once

#include <string_view>

namespace fedspallm::fuzz {

constexpr std::string_view kTinyConfig =
    R"({"model_type":"llama","vocab_size":3,"hidden_size":2,"intermediate_size":2,"num_hidden_layers":1,)"
    R"("num_attention_heads":1,"max_position_embeddings":4,"tie_word_embeddings":true})";

}  // namespace fedspallm::fuzz
