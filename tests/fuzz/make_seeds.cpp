// SPDX-License-Identifier: Apache-2.0
// Writes those seeds that are not text: make_seeds FOLDER makes FOLDER/TARGET/NAME. The encoders of the
// program write them, so they are made again where a format changes (tests/fuzz/run.sh --seeds).
#include "fedspallm/store/resume_file.hpp"
#include "fedspallm/store/run_store.hpp"
#include "fedspallm/store/state_store.hpp"

#include "app/written_block.hpp"
#include "comm/messages.hpp"
#include "fuzz/fuzz.hpp"
#include "fuzz/samples.hpp"
#include "store/manifest.hpp"
#include <cstdio>

using namespace fedspallm;

namespace {

std::string text_of(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

class Seeds {
 public:
  explicit Seeds(std::filesystem::path folder) : folder_(std::move(folder)) {}
  void add(const std::string& target, const std::string& name, const std::string& bytes) const {
    std::filesystem::create_directories(folder_ / target);
    fuzz::write_file(folder_ / target / name, bytes);
  }

 private:
  std::filesystem::path folder_;
};

void add_updates(const Seeds& seeds) {
  wire::MatrixUpdate update{.unit = {1, 2, 3}, .client = 4};
  update.matrix = fuzz::sample_matrix(3, 5, DType::f32);
  update.hessian_diagonal = {1, 2, 3, 4, 5};
  seeds.add("update", "float32", '\x00' + text_of(wire::encode(update)));
  update.matrix = fuzz::sample_matrix(13, 7, DType::f16);
  update.hessian_diagonal.assign(7, 0.5F);
  seeds.add("update", "float16", '\x02' + text_of(wire::encode(update)));
  update.matrix = fuzz::sample_matrix(2, 32, DType::bf16);
  update.hessian_diagonal.clear();
  seeds.add("update", "bfloat16", '\x01' + text_of(wire::encode(update)));
  seeds.add("update", "checksums-as-sent", '\x81' + text_of(wire::encode(update)));
}

void add_messages(const Seeds& seeds) {
  const comm::Failure failure{ExitStatus::numerical, "rank 1 on host: not positive definite"};
  const std::vector<std::pair<std::string, comm::Message>> all = {
      {"announce",
       comm::AnnounceMessage{5, {comm::Announcement{}, comm::Announcement{.client = 1, .kept = 9}}}},
      {"grant", comm::GrantMessage{7, 2}},
      {"scale", comm::ScaleMessage{7, -50, -40}},
      {"scale-of-nodes", comm::ScaleMessage{7, -50, -40, 1, 2, {3, 4}}},
      {"fetch", comm::FetchMessage{3}},
      {"block", comm::BlockMessage{3, 1000}},
      {"finish", comm::FinishMessage{}},
      {"done", comm::DoneMessage{true, 4}},
      {"bye", comm::ByeMessage{}},
      {"stop", comm::StopMessage{}},
      {"durable", comm::DurableMessage{9}},
      {"drop", comm::DropMessage{2, 5, "NaN in the tokens"}},
      {"late", comm::LateMessage{2, 17}},
      {"wish", comm::WishMessage{comm::Boundary::save}},
      {"hold", comm::HoldMessage{}},
      {"begun", comm::BegunMessage{6}},
      {"decision", comm::DecisionMessage{comm::Boundary::stop, 7}},
      {"failed", comm::FailedMessage{failure}},
      {"stopped", comm::StoppedMessage{failure}},
      {"stopped-well", comm::StoppedMessage{}},
      {"verdict", comm::VerdictMessage{failure}},
      {"slice", comm::SliceMessage{7, -50, -40, {3}}},
      {"offer", comm::OfferMessage{7, {100, 200}}},
      {"ask", comm::AskMessage{7, 0, 2}},
      {"sum", comm::SumMessage{7, 2, false, {1, 2, 3}}},
      {"result", comm::ResultMessage{7, 4000}},
      {"take", comm::TakeMessage{7}},
      {"reports", comm::ReportsMessage{7, {comm::Announcement{.client = 1, .kept = 9}}}},
      {"written", comm::WrittenMessage{7, "note"}},
      {"quiet", comm::QuietMessage{}},
      {"add", comm::AddMessage{7, -50, -40, 1, 0, 2}},
      {"added", comm::AddedMessage{7, true}}};
  for (const auto& [name, message] : all) seeds.add("messages", name, text_of(comm::to_bytes(message)));
}

void add_manifest(const Seeds& seeds) {
  const store::RunPaths paths{fuzz::scratch() / "run"};
  store::BlockStore run = store::BlockStore::of_run(paths);
  run.write_block(fuzz::sample_block());
  run.write_links({}, true);
  const std::string manifest = fuzz::read_file(paths.manifest());
  seeds.add("manifest", "sound", manifest);
  seeds.add("manifest", "checksum-put-right", " " + manifest);
  seeds.add("manifest", "changed-block", manifest + "\n%%\n\x89HDF\r\n\x1a\n");
  seeds.add("manifest", "changed-links", manifest + "\n%%\n\n%%\n\x89HDF\r\n\x1a\n");
}

void add_state(const Seeds& seeds) {
  store::StateStore states(fuzz::scratch() / "state", 7);
  store::StateStore::Writing writing = states.begin({1, 2}, 2, 3);
  writing.append(std::vector<float>{1, 2, 3, 4, 5, 6});
  writing.close();
  writing.publish();
  const std::string bytes = fuzz::read_file(fuzz::scratch() / "state" / "r01-b0002.state");
  seeds.add("state", "two-rows", std::string(1, '\0') + bytes);
  seeds.add("state", "checksums-as-written", '\1' + bytes);
}

void add_resume_file(const Seeds& seeds) {
  const std::filesystem::path file = fuzz::scratch() / "resume.json";
  store::write_identity(file, {.run_id = 7,
                               .facts = {{"prune.sparsity", "0.5"}, {"clients", "novels, pydoc"}},
                               .dropped = {{1, {1, 2}, "NaN in the tokens"}}});
  seeds.add("resume_file", "sound", fuzz::read_file(file));
  seeds.add("resume_file", "checksum-put-right", " " + fuzz::read_file(file));
}

void add_block_notes(const Seeds& seeds) {
  app::WrittenBlock block;
  block.summary = {.round = 1, .block = 2, .rank = 3, .clients = 4, .weights = 500, .dropped = 250};
  block.entry = store::to_text(store::BlockEntry{1, 2, {"r01-b0002.h5", 1000, 0x123456789abcdef0}});
  seeds.add("block_note", "written", app::to_text(block));
  block.entry.clear();
  block.uncovered = "model.layers.2.mlp.up_proj.weight";
  seeds.add("block_note", "uncovered", app::to_text(block));
}

}  // namespace

int main(int count, char** arguments) {
  if (count != 2) {
    std::fprintf(stderr, "Usage: make_seeds FOLDER\n");
    return 2;
  }
  const Seeds seeds(arguments[1]);
  add_updates(seeds);
  add_messages(seeds);
  add_manifest(seeds);
  add_state(seeds);
  add_resume_file(seeds);
  add_block_notes(seeds);
  seeds.add("block_codec", "three-matrices", '\0' + text_of(store::encode_block(fuzz::sample_block())));
  seeds.add("block_codec", "checksums-as-sent", '\1' + text_of(store::encode_block(fuzz::sample_block())));
  return 0;
}
