// SPDX-License-Identifier: Apache-2.0
// resume.json. An input that begins with a blank gets the checksum that its content
// should have.
#include "fedspallm/base/hash.hpp"
#include "fedspallm/store/resume_file.hpp"

#include "fuzz/fuzz.hpp"

using namespace fedspallm;

namespace {

std::string with_right_checksum(const std::string& text) {
  nlohmann::json json = nlohmann::json::parse(text, nullptr, false);
  if (!json.is_object()) return text;
  json.erase("xxh3");
  const std::string content = json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  json["xxh3"] = fmt::format("{:016x}", checksum(fuzz::raw(content)));
  return json.dump(1, ' ', false, nlohmann::json::error_handler_t::replace);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string text = fuzz::text_of({data, size});
  const std::filesystem::path file = fuzz::scratch() / "resume.json";
  fuzz::write_file(file, text.starts_with(' ') ? with_right_checksum(text) : text);
  std::optional<store::RunIdentity> found;
  if (!fuzz::accepts([&] { found = store::read_identity(file); })) return 0;
  fuzz::promise(found.has_value(), "a file that is there is read");
  store::write_identity(file, *found);
  const auto again = store::read_identity(file);
  fuzz::promise(again && again->run_id == found->run_id && again->facts == found->facts &&
                    store::to_json(again->dropped) == store::to_json(found->dropped),
                "a round trip");
  return 0;
}
