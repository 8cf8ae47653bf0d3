// SPDX-License-Identifier: Apache-2.0
#include "bench_inputs.hpp"

#include "fedspallm/base/error.hpp"
#include "fedspallm/base/random.hpp"
#include "fedspallm/store/run_store.hpp"

#include <nlohmann/json.hpp>

#include "file_io.hpp"
#include <algorithm>
#include <cstring>

namespace fedspallm::store {

namespace {

constexpr std::size_t kBf16Bytes = 2;

wire::PackedMatrix half_pruned(const BenchMatrix& shape, std::uint32_t number) {
  const RandomKey key{.seed = 5, .use = RandomUse::simulation, .block = number};
  const auto size = static_cast<std::size_t>(shape.rows * shape.cols);
  std::vector<float> dense(size);
  std::vector<std::uint8_t> kept(size);
  for (std::size_t i = 0; i < size; ++i) {
    const std::uint64_t bits = random_bits(key, i);
    dense[i] = static_cast<float>(bits >> 40) * 0x1p-24F + 0.5F;
    kept[i] = bits & 1;
  }
  return wire::pack(shape.rows, shape.cols, DType::bf16, dense, kept);
}

/// All clients for what is dropped, else fewer.
void add_votes(MatrixRecord& record, std::uint32_t clients) {
  record.histogram.assign(clients + 1, 0);
  record.votes.resize(static_cast<std::size_t>(record.matrix.size()));
  for (std::size_t i = 0; i < record.votes.size(); ++i) {
    const bool kept = (record.matrix.bits[i / 64] >> (i % 64) & 1) != 0;
    record.votes[i] = kept ? static_cast<std::uint32_t>(i * 7 % clients) : clients;
    ++record.histogram[record.votes[i]];
  }
  record.target = record.matrix.dropped();
  record.common_zeros = record.matrix.dropped();
  for (std::uint32_t client = 0; client < clients; ++client)
    record.clients.push_back({.client = client, .kept = record.matrix.kept, .report = {}});
}

std::string config_json(const CheckpointBenchOptions& options) {
  return nlohmann::json({{"model_type", "llama"},
                         {"vocab_size", options.vocabulary},
                         {"hidden_size", options.hidden},
                         {"intermediate_size", options.intermediate},
                         {"num_hidden_layers", options.model_blocks},
                         {"num_attention_heads", options.heads},
                         {"num_key_value_heads", options.kv_heads},
                         {"head_dim", options.head_dim},
                         {"max_position_embeddings", 2048},
                         {"tie_word_embeddings", true}})
      .dump();
}

/// The header of a .safetensors file, tensor by tensor.
class Header {
 public:
  void add(const std::string& name, const std::vector<std::int64_t>& shape) {
    std::size_t size = kBf16Bytes;
    for (const std::int64_t extent : shape) size *= static_cast<std::size_t>(extent);
    header_[name] = {{"dtype", "BF16"}, {"shape", shape}, {"data_offsets", {end_, end_ + size}}};
    end_ += size;
  }
  [[nodiscard]] std::string text() const { return header_.dump(); }
  [[nodiscard]] std::size_t data_bytes() const { return end_; }

 private:
  nlohmann::ordered_json header_;
  std::size_t end_ = 0;
};

Header header_of(const CheckpointBenchOptions& options) {
  Header header;
  header.add("model.embed_tokens.weight", {options.vocabulary, options.hidden});
  for (std::int64_t block = 0; block < options.model_blocks; ++block) {
    const std::string prefix = fmt::format("model.layers.{}.", block);
    for (const BenchMatrix& matrix : bench_matrices(options))
      header.add(prefix + matrix.suffix + ".weight", {matrix.rows, matrix.cols});
    header.add(prefix + "input_layernorm.weight", {options.hidden});
    header.add(prefix + "post_attention_layernorm.weight", {options.hidden});
  }
  header.add("model.norm.weight", {options.hidden});
  return header;
}

}  // namespace

std::vector<BenchMatrix> bench_matrices(const CheckpointBenchOptions& options) {
  const std::int64_t width = options.heads * options.head_dim, kv_width = options.kv_heads * options.head_dim;
  return {{"self_attn.q_proj", width, options.hidden},
          {"self_attn.k_proj", kv_width, options.hidden},
          {"self_attn.v_proj", kv_width, options.hidden},
          {"self_attn.o_proj", options.hidden, width},
          {"mlp.gate_proj", options.intermediate, options.hidden},
          {"mlp.up_proj", options.intermediate, options.hidden},
          {"mlp.down_proj", options.hidden, options.intermediate}};
}

std::vector<std::byte> random_bytes(std::size_t size) {
  const RandomKey key{.seed = 6, .use = RandomUse::simulation};
  std::vector<std::byte> bytes(size);
  for (std::size_t at = 0; at < size; at += sizeof(std::uint64_t)) {
    // Exponents below 128 only, so that these bytes are finite numbers as bf16, too.
    const std::uint64_t bits = random_bits(key, at) & 0xbfff'bfff'bfff'bfff;
    std::memcpy(&bytes[at], &bits, std::min(sizeof(bits), size - at));
  }
  return bytes;
}

BlockRecord bench_block(const CheckpointBenchOptions& options) {
  BlockRecord block;
  for (const BenchMatrix& shape : bench_matrices(options)) {
    MatrixRecord record;
    record.name = fmt::format("model.layers.0.{}.weight", shape.suffix);
    record.matrix = half_pruned(shape, static_cast<std::uint32_t>(block.matrices.size()));
    add_votes(record, options.clients);
    block.matrices.push_back(std::move(record));
  }
  return block;
}

void write_bench_model(const std::filesystem::path& directory, const CheckpointBenchOptions& options) {
  make_folders(directory);
  write_file_atomically(directory / "config.json", config_json(options));
  const Header header = header_of(options);
  const std::string text = header.text();
  const auto length = static_cast<std::uint64_t>(text.size());
  const std::vector<std::byte> data = random_bytes(header.data_bytes());
  const std::filesystem::path path = directory / "model.safetensors";
  const Descriptor file = create_file(path);
  write_at(file, 0, std::as_bytes(std::span(&length, 1)), path);
  write_at(file, sizeof(length), std::as_bytes(std::span(text)), path);
  write_at(file, static_cast<std::int64_t>(sizeof(length) + text.size()), data, path);
}

}  // namespace fedspallm::store
