// SPDX-License-Identifier: Apache-2.0
// Purpose: the messages for keys and tables that do not exist, with the name that was probably meant.
#pragma once

#include <string>
#include <vector>

namespace fedspallm::config {

/// "unknown key 'TITLE.KEY'; did you mean 'TITLE.OTHER'?". A key that exists in another section is pointed to
/// there.
/// @param section "prune", "client", ... or "" for a key outside of all tables
/// @param title   what precedes the key in messages, e.g. "client.novels"; "" for none
[[nodiscard]] std::string unknown_key(const std::string& section, const std::string& title,
                                      const std::string& key);
/// "unknown table 'NAME'; did you mean 'OTHER'?" or the list of all tables.
[[nodiscard]] std::string unknown_table(const std::string& name);
/// "; did you mean 'OTHER'?", or "" when nothing is near.
[[nodiscard]] std::string did_you_mean(const std::string& word, const std::vector<std::string>& known);

}  // namespace fedspallm::config
