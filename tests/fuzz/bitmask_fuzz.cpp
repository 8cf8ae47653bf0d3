// SPDX-License-Identifier: Apache-2.0
// model.fspm. First byte odd: the rest is the file. Even: the rest is the JSON header, a line "%%" and stored
// data; the preamble is made for them, and the checksums of stored ranges are set right.
#include "fedspallm/base/hash.hpp"

#include <nlohmann/json.hpp>

#include "fuzz/fuzz.hpp"
#include "store/bitmask.hpp"
#include "store/bitmask_layout.hpp"

using namespace fedspallm;

namespace {

using Json = nlohmann::ordered_json;

constexpr std::size_t kPreamble = sizeof(store::Preamble);

/// Sets "xxh3" right in every {"offset", "stored", "xxh3"} that lies within the file.
void put_right(Json& json, const std::string& file) {
  if (!json.is_structured()) return;
  for (Json& item : json) put_right(item, file);
  if (!json.is_object() || !json.contains("xxh3") || !json.contains("offset") || !json.contains("stored"))
    return;
  const Json offset = json["offset"], stored = json["stored"];
  if (!offset.is_number_unsigned() || !stored.is_number_unsigned()) return;
  const auto begin = offset.get<std::uint64_t>(), length = stored.get<std::uint64_t>();
  if (begin > file.size() || length > file.size() - begin) return;
  json["xxh3"] = fmt::format("{:016x}", checksum(fuzz::raw(file).subspan(begin, length)));
}

std::string file_of(const std::string& text) {
  const std::vector<std::string> parts = fuzz::sections(text);
  std::string file = std::string(kPreamble, '\0') + (parts.size() > 1 ? parts[1] : std::string());
  Json json = Json::parse(parts[0], nullptr, false);
  std::string header = parts[0];
  if (!json.is_discarded()) {
    put_right(json, file);
    header = json.dump(-1, ' ', false, Json::error_handler_t::replace);
  }
  store::Preamble words{};
  words[store::kMagicAndVersion] = store::kBitmaskMagic | store::kBitmaskVersion << 32;
  words[store::kHeaderOffset] = file.size();
  words[store::kHeaderBytes] = header.size();
  words[store::kHeaderChecksum] = checksum(fuzz::raw(header));
  words[store::kFileBytes] = file.size() + header.size();
  words[store::kPreambleChecksum] = checksum(std::as_bytes(std::span(words).first(store::kPreambleChecksum)));
  std::memcpy(file.data(), words.data(), kPreamble);
  return file + header;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  fuzz::Source source({data, size});
  const bool plain = source.byte() % 2 == 1;
  const std::string rest = fuzz::text_of(source.rest());
  const std::filesystem::path path = fuzz::scratch() / "model.fspm", folder = fuzz::scratch() / "out";
  fuzz::write_file(path, plain ? rest : file_of(rest));
  std::filesystem::remove_all(folder);
  std::filesystem::create_directory(folder);
  std::int64_t bytes = 0;
  if (fuzz::accepts([&] { bytes = store::unpack_bitmask_file(path, folder); })) {
    std::int64_t found = 0;
    for (const auto& entry : std::filesystem::directory_iterator(folder))
      found += static_cast<std::int64_t>(entry.file_size());
    fuzz::promise(found == bytes, "the files have the bytes that the header says");
  }
  fuzz::accepts([&] { static_cast<void>(store::model_digest_of_bitmask_file(path)); });
  fuzz::promise(std::distance(std::filesystem::directory_iterator(fuzz::scratch()), {}) == 2,
                "nothing lands elsewhere");
  return 0;
}
