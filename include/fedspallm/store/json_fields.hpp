// SPDX-License-Identifier: Apache-2.0
// Purpose: numbers in JSON files that anybody may have written: nlohmann would turn -1, 1.5, 1e300 and true
// into integers without a word. Non-goal: texts and lists, whose types nlohmann checks itself.
#pragma once

#include "fedspallm/base/error.hpp"

#include <nlohmann/json.hpp>

#include <cstdint>

namespace fedspallm::store {

/// The integer at `key`. @throws DataError unless it is one from 0 to `largest`; nlohmann's exception where
/// there is no such key
template <class Json>
[[nodiscard]] std::uint64_t whole_number(const Json& json, const char* key,
                                         std::uint64_t largest = std::uint64_t{1} << 62) {
  const Json& value = json.at(key);
  const bool fits = value.is_number_unsigned() && value.template get<std::uint64_t>() <= largest;
  check<DataError>(fits, fmt::format("'{}' is {}, expected an integer from 0 to {}", key,
                                     value.is_number() ? value.dump() : value.type_name(), largest));
  return value.template get<std::uint64_t>();
}

}  // namespace fedspallm::store
