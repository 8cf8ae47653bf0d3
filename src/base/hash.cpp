// SPDX-License-Identifier: Apache-2.0
#include "fedspallm/base/hash.hpp"

#include "fedspallm/base/error.hpp"

#include <fmt/format.h>
#include <openssl/evp.h>
#include <xxhash.h>

#include <array>
#include <fstream>
#include <memory>
#include <vector>

namespace fedspallm {

namespace {

constexpr std::size_t kFileChunk = std::size_t{1} << 20;

/// Calls consume(bytes) over the file's content, a chunk at a time.
template <class Consume>
void for_each_chunk(const std::filesystem::path& path, Consume consume) {
  std::ifstream file(path, std::ios::binary);
  check<ResourceError>(file.is_open(), fmt::format("{}: cannot be opened for reading", path.string()));
  std::vector<char> buffer(kFileChunk);
  while (file) {
    file.read(buffer.data(), static_cast<std::streamsize>(buffer.size()));
    consume(std::as_bytes(std::span(buffer.data(), static_cast<std::size_t>(file.gcount()))));
  }
  check<ResourceError>(!file.bad(), fmt::format("{}: read error", path.string()));
}

class Sha256 {
 public:
  Sha256() : context_(EVP_MD_CTX_new(), &EVP_MD_CTX_free) {
    check<ResourceError>(context_ && EVP_DigestInit_ex(context_.get(), EVP_sha256(), nullptr) == 1,
                         "SHA-256: cannot start");
  }
  void update(std::span<const std::byte> bytes) {
    check<ResourceError>(EVP_DigestUpdate(context_.get(), bytes.data(), bytes.size()) == 1,
                         "SHA-256: update failed");
  }
  std::string finish() {
    std::array<unsigned char, 32> digest{};
    check<ResourceError>(EVP_DigestFinal_ex(context_.get(), digest.data(), nullptr) == 1,
                         "SHA-256: cannot finish");
    std::string text;
    for (const unsigned char byte : digest) text += fmt::format("{:02x}", byte);
    return text;
  }

 private:
  std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> context_;
};

}  // namespace

std::uint64_t checksum(std::span<const std::byte> bytes) {
  return XXH3_64bits(bytes.data(), bytes.size());
}

std::string sha256(std::span<const std::byte> bytes) {
  Sha256 digest;
  digest.update(bytes);
  return digest.finish();
}

std::string sha256_of_file(const std::filesystem::path& path, const std::function<void()>& beat) {
  Sha256 digest;
  for_each_chunk(path, [&](std::span<const std::byte> bytes) {
    digest.update(bytes);
    if (beat) beat();
  });
  return digest.finish();
}

struct RunningChecksum::Impl {
  struct Deleter {
    void operator()(XXH3_state_t* state) const noexcept { XXH3_freeState(state); }
  };
  std::unique_ptr<XXH3_state_t, Deleter> state{XXH3_createState()};
};

RunningChecksum::RunningChecksum() : impl_(std::make_unique<Impl>()) {
  check<ResourceError>(impl_->state && XXH3_64bits_reset(impl_->state.get()) == XXH_OK, "xxh3: cannot start");
}
RunningChecksum::~RunningChecksum() = default;

void RunningChecksum::add(std::span<const std::byte> bytes) {
  check<ResourceError>(XXH3_64bits_update(impl_->state.get(), bytes.data(), bytes.size()) == XXH_OK,
                       "xxh3: update failed");
}

std::uint64_t RunningChecksum::value() const {
  return XXH3_64bits_digest(impl_->state.get());
}

std::uint64_t checksum_of_file(const std::filesystem::path& path) {
  RunningChecksum sum;
  for_each_chunk(path, [&](std::span<const std::byte> bytes) { sum.add(bytes); });
  return sum.value();
}

}  // namespace fedspallm
