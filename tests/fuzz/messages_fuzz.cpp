// SPDX-License-Identifier: Apache-2.0
// Control messages between ranks. Another rank sent them, so a refusal is an error of a peer, not of an input
// file.
#include "comm/messages.hpp"
#include "fuzz/fuzz.hpp"

using namespace fedspallm;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto bytes = std::as_bytes(std::span(data, size));
  comm::Message message;
  if (!fuzz::accepts([&] { message = comm::from_bytes(bytes); }, ExitStatus::peer_lost)) return 0;
  // Any byte but 0 is true, so the first round may change bytes.
  const auto once = comm::to_bytes(message);
  fuzz::promise(once.size() == bytes.size() && comm::to_bytes(comm::from_bytes(once)) == once,
                "a round trip");
  if (const auto* verdict = std::get_if<comm::VerdictMessage>(&message))
    fuzz::promise(verdict->failure.status != ExitStatus::done, "a failure is no success");
  return 0;
}
