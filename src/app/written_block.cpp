// SPDX-License-Identifier: Apache-2.0
#include "written_block.hpp"

#include "fedspallm/base/error.hpp"
#include "fedspallm/model/json_text.hpp"
#include "fedspallm/store/json_fields.hpp"

#include <limits>

namespace fedspallm::app {

namespace {

using Json = nlohmann::json;

constexpr auto kLargestInt = static_cast<std::uint64_t>(std::numeric_limits<int>::max());
constexpr auto kLargestUnsigned = static_cast<std::uint64_t>(std::numeric_limits<std::uint32_t>::max());
constexpr std::size_t kSummaryKeys = 13, kKeys = 3;

/// JSON has no NaN and no infinity: both travel as null.
double real(const Json& json, const char* key) {
  const Json& value = json.at(key);
  if (value.is_null()) return std::numeric_limits<double>::quiet_NaN();
  check<DataError>(value.is_number(), fmt::format("'{}' is {}, expected a number", key, value.type_name()));
  return value.get<double>();
}

std::int64_t count(const Json& json, const char* key) {
  return static_cast<std::int64_t>(store::whole_number(json, key));
}

/// Each key is asked for, so that with their number there can be no others.
void check_keys(const Json& json, std::size_t keys) {
  check<DataError>(json.is_object() && json.size() == keys,
                   fmt::format("found {} with {} entries, expected an object with {}", json.type_name(),
                               json.size(), keys));
}

Json to_json(const BlockSummary& summary) {
  return {{"round", summary.round},
          {"block", summary.block},
          {"rank", summary.rank},
          {"clients", summary.clients},
          {"weights", summary.weights},
          {"dropped", summary.dropped},
          {"expanded", summary.expanded},
          {"error", summary.error},
          {"damping_steps", summary.damping_steps},
          {"above_target", summary.above_target},
          {"recomputed", summary.recomputed},
          {"merge_seconds", summary.merge_seconds},
          {"write_seconds", summary.write_seconds}};
}

BlockSummary summary_from_json(const Json& json) {
  check_keys(json, kSummaryKeys);
  BlockSummary summary;
  summary.round = static_cast<std::uint32_t>(store::whole_number(json, "round", kLargestUnsigned));
  summary.block = static_cast<std::int64_t>(store::whole_number(json, "block", kLargestUnsigned));
  summary.rank = static_cast<int>(store::whole_number(json, "rank", kLargestInt));
  summary.clients = count(json, "clients");
  summary.weights = count(json, "weights");
  summary.dropped = count(json, "dropped");
  summary.expanded = count(json, "expanded");
  summary.error = real(json, "error");
  summary.damping_steps = static_cast<int>(store::whole_number(json, "damping_steps", kLargestInt));
  summary.above_target = json.at("above_target").get<bool>();
  summary.recomputed = json.at("recomputed").get<bool>();
  summary.merge_seconds = real(json, "merge_seconds");
  summary.write_seconds = real(json, "write_seconds");
  std::int64_t client_weights = 0;
  check<DataError>(summary.dropped <= summary.weights && summary.expanded <= summary.weights &&
                       !__builtin_mul_overflow(summary.clients, summary.weights, &client_weights),
                   fmt::format("impossible counts: {} clients, {} weights, {} dropped, {} expanded",
                               summary.clients, summary.weights, summary.dropped, summary.expanded));
  return summary;
}

WrittenBlock parse(const std::string& text, store::Position expected) {
  const Json json = model::parse_json(text, "its JSON");
  check_keys(json, kKeys);
  WrittenBlock block{summary_from_json(json.at("summary")), json.at("entry").get<std::string>(),
                     json.at("uncovered").get<std::string>()};
  check<DataError>(block.summary.round == expected.round && block.summary.block == expected.block,
                   fmt::format("it is of block {} of round {}, expected block {} of round {}",
                               block.summary.block, block.summary.round, expected.block, expected.round));
  return block;
}

}  // namespace

std::string to_text(const WrittenBlock& block) {
  const Json json = {
      {"summary", to_json(block.summary)}, {"entry", block.entry}, {"uncovered", block.uncovered}};
  return json.dump();
}

WrittenBlock written_block_from_text(const std::string& text, store::Position expected) {
  const auto damaged = [](const std::exception& error) {
    return DataError(fmt::format("what a rank says of the block that it wrote is damaged: {}", error.what()));
  };
  try {
    return parse(text, expected);
  } catch (const Json::exception& error) {
    throw damaged(error);
  } catch (const DataError& error) {
    throw damaged(error);
  } catch (const ModelError& error) {  // no JSON
    throw damaged(error);
  }
}

}  // namespace fedspallm::app
