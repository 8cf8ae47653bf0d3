// SPDX-License-Identifier: Apache-2.0
// Purpose: the run-time interface behind which all arithmetic of pruning and of the forward pass happens.
// The reference backend is the meaning of each op; cpu (and cuda) are tested against it. An op is a block or
// a matrix, never a column. Ops run in order on the backend's one stream; only copy_out, synchronize and ops
// that return values to the host wait. Precision: fp32 operands (but see Products), fp32 accumulation, no
// TF32. Bits: an op's result depends on its operands and the kernel set (kernel_set()) only, never on thread
// count. Every op checks that views belong to this backend and that shapes agree, and throws LogicError
// otherwise. Non-goals: files, MPI, the order of the ops (model/, prune/).
#pragma once

#include "fedspallm/backend/csr.hpp"
#include "fedspallm/backend/tensor.hpp"
#include "fedspallm/base/cpu_features.hpp"
#include "fedspallm/base/dtype.hpp"

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace fedspallm::backend {

/// How the products of activations (linear, gram, the two of causal_attention) take their fp32 operands. The
/// 16-bit ones round both operands to that type first (ties to even; bf16 on CPUs takes what is below 2^-126
/// as 0) and accumulate in fp32: faster, with the rounding of models that run in 16 bits. Attention's softmax
/// is fp32, its weights are rounded when they are normalised. All other ops stay in fp32, factorization and
/// trailing update among them.
enum class Products : std::uint8_t { f32, f16, bf16 };
/// "f32", "f16", "bf16".
[[nodiscard]] std::string_view name_of(Products products);

/// Backend::rows_per_batch() of CPUs, and of GPUs: these convert weights for every product with 16-bit
/// operands, and visit a Hessian once a batch.
constexpr std::int64_t kHostRowsPerBatch = 2048, kDeviceRowsPerBatch = 8192;

/// Matrix products and factorizations.
class LinearOps {
 public:
  virtual ~LinearOps() = default;
  /// y = x w^T (+ bias) (+ y when `add`).  x: n x in, w: out x in, bias: 1 x out or empty, y: n x out.
  virtual void linear(View x, View w, View bias, View y, bool add) = 0;
  /// c -= a b.  a: m x k, b: k x n, c: m x n. (SparseGPT's trailing update.)
  virtual void subtract_product(View a, View b, View c) = 0;
  /// h += scale x^T x on the upper triangle (with diagonal); the strict lower triangle is not touched.
  /// x: n x c, h: c x c.
  virtual void gram(View x, float scale, View h) = 0;
  /// In: upper triangle of a symmetric H (c x c). Out: U upper with H^-1 = U^T U, strict lower triangle zero.
  /// One factorization: H = R R^T with R upper (Cholesky of H with rows and columns reversed), U = R^-1.
  /// @return nothing on success, else the column whose pivot was not positive (h is then destroyed). A pivot
  /// below 2^-23 of the diagonal element it came from is rounding noise and counts as not positive.
  [[nodiscard]] virtual std::optional<std::int64_t> inverse_upper_factor(View h) = 0;
};

enum class Norm { rms, layer };
enum class Activation { relu, gelu };  // gelu: x Phi(x), exact erf

struct AttentionShape {
  std::int64_t sequence_length = 0;  // rows of q are whole sequences one after another
  std::int64_t heads = 0;
  std::int64_t kv_heads = 0;  // heads % kv_heads == 0
  std::int64_t head_dim = 0;
  float scale = 1.0F;
  std::int64_t window = 0;  // 0 = full; else key j is seen from query i iff 0 <= i - j < window
};

/// The pieces of a decoder block that are not matrix products.
class ModelOps {
 public:
  virtual ~ModelOps() = default;
  /// y = normalised rows of x times weight (+ bias). x, y: n x c (may be the same view); weight: 1 x c; bias:
  /// 1 x c or empty.
  virtual void norm(Norm kind, View x, View weight, View bias, float epsilon, View y) = 0;
  /// Rotary embedding in place, "rotate half" convention: with half = head_dim / 2, element i and i + half of
  /// each head are rotated by angle (row mod sequence_length, i). x: n x (heads * head_dim); cosine, sine:
  /// sequence_length x half.
  virtual void rope(View x, View cosine, View sine, std::int64_t heads) = 0;
  /// Softmax attention of whole sequences, causal; no L x L matrix is kept in memory.
  /// q, out: n x (heads * head_dim); k, v: n x (kv_heads * head_dim); n % sequence_length == 0.
  virtual void causal_attention(View q, View k, View v, const AttentionShape& shape, View out) = 0;
  /// gate = silu(gate) * up.
  virtual void silu_multiply(View gate, View up) = 0;
  virtual void activate(Activation kind, View x) = 0;
  /// y += x.
  virtual void add(View x, View y) = 0;
  /// nll[i] = logsumexp(logits[i, :]) - logits[i, targets[i]], for rows with targets[i] >= 0; others give 0.
  /// @pre targets.size() == nll.size() == logits.rows(), targets[i] < logits.cols()
  virtual void token_nll(View logits, std::span<const std::int32_t> targets, std::span<double> nll) = 0;
  /// Row-major index of the first NaN or infinity, or nothing.
  [[nodiscard]] virtual std::optional<std::int64_t> first_non_finite(View x) = 0;
};

/// Scores, selection and the SparseGPT sweep. Masks are u8: 1 = kept, 0 = dropped.
class PruneOps {
 public:
  virtual ~PruneOps() = default;
  /// score = w^2 / d_j^2 with d_j = diag[j]; (SparseGPT). w, score: r x c; diag: 1 x c.
  virtual void saliency(View w, View diag, View score) = 0;
  /// score = |w| * factor_j (Wanda; magnitude with factors 1). factor: 1 x c.
  virtual void weighted_magnitude(View w, View factor, View score) = 0;
  /// score = -1 where previous_mask == 0, so that what was dropped before goes first.
  virtual void prefer_dropped(View previous_mask, View score) = 0;
  /// mask = 0 at the `count` smallest scores of the whole view, 1 elsewhere. Equal scores: lowest row-major
  /// index first. By selection, not by sorting. @pre 0 <= count <= size, no NaN
  virtual void select_smallest(View score, std::int64_t count, View mask) = 0;
  /// Row r of mask = 0 at its counts[r] smallest scores. Equal scores: lowest column first.
  virtual void select_smallest_per_row(View score, std::span<const std::int64_t> counts, View mask) = 0;
  /// The published rule: threshold = sorted(scores)[index]; mask = 0 wherever score <= threshold. @pre 0 <=
  /// index < size
  virtual void select_published(View score, std::int64_t index, View mask) = 0;
  /// One column block of SparseGPT with a given mask (arXiv 2301.00774, algorithm 1). For each column j in
  /// order: q = mask ? w : 0; error_j = (w_j - q) / u_jj; w_k -= error_j u_jk for k > j; w_j = q. w, mask,
  /// error: r x b; u: b x b upper.
  virtual void obs_block(View w, View u, View mask, View error) = 0;
  /// The same with N:M selection: at the first column of each group of m the m - keep smallest w^2/u_jj^2 of
  /// the group (from weights already updated by earlier columns; ties: lowest column) are dropped;
  /// `previous_mask` (or empty) drops first. mask is written. @pre b % m == 0
  virtual void obs_block_n_of_m(View w, View u, int keep, int m, View previous_mask, View mask,
                                View error) = 0;
  /// mask for N:M without a sweep: per row and group of m the m - keep smallest scores are dropped (ties:
  /// lowest column).
  virtual void select_n_of_m(View score, int keep, int m, View mask) = 0;
  /// w = mask ? w : 0.
  virtual void apply_mask(View mask, View w) = 0;
  /// w = round_to(dtype, w).
  virtual void round_to_dtype(DType dtype, View w) = 0;
  /// A sum of squares in double that the backend keeps, each view's squares in an order fixed by its shape.
  /// To start and to add is only queued; squares() waits for the sum.
  virtual void start_squares() = 0;
  virtual void add_squares(View x) = 0;
  /// @pre start_squares() was called
  [[nodiscard]] virtual double squares() = 0;
};

/// Dense <-> packed (mask bits + kept values), on the edge between device and host.
class SparseOps {
 public:
  virtual ~SparseOps() = default;
  /// Bit i of `bits` (row-major index i, least significant first in each 64-bit word; padding bits zero) =
  /// mask[i]; `values` = the kept weights narrowed to dtype, row-major. @pre bits.size() == ceil(size / 64)
  /// @return number of kept weights; values is resized to that times size_of(dtype).
  virtual std::int64_t pack(View w, View mask, DType dtype, std::span<std::uint64_t> bits,
                            std::vector<std::byte>& values) = 0;
  /// w = values at the set bits, 0 elsewhere. @pre values hold exactly popcount(bits) elements
  virtual void unpack(std::span<const std::uint64_t> bits, std::span<const std::byte> values, DType dtype,
                      View w) = 0;
  /// mask (u8) from bits.
  virtual void unpack_mask(std::span<const std::uint64_t> bits, View mask) = 0;
};

/// Packed updates that stay in the device's memory, and their sums there (comm's transport nccl). Sums are
/// tiles of 64 weights: 64 int64 sums, then 64 uint32 counts of who kept the weight (aggregate/tile.hpp).
/// All but pack() may be called from any thread, beside the backend's own work; each call waits for its work.
class UpdateOps {
 public:
  virtual ~UpdateOps() = default;
  /// 256-byte aligned; contents undefined. @throws ResourceError. @pre bytes >= 1
  [[nodiscard]] virtual std::shared_ptr<std::byte> allocate(std::int64_t bytes) = 0;
  virtual void write(std::span<const std::byte> host, std::byte* device) = 0;
  virtual void read(const std::byte* device, std::span<std::byte> host) = 0;

  struct Place {
    std::byte* bits = nullptr;    // whole 64-bit words
    std::byte* values = nullptr;  // 256-byte aligned, as bits
  };
  struct Packed {
    std::int64_t kept = 0;
    std::int64_t kept_zeros = 0;  // kept values that are +-0
    float largest = 0;            // |kept value|, as narrowed; infinite or NaN where one is not finite
  };
  /// Bits and values as SparseOps::pack has them, written where `place` says once their number is known.
  virtual Packed pack(View w, View mask, DType dtype,
                      const std::function<Place(std::int64_t kept)>& place) = 0;

  virtual void clear(std::int64_t weights, std::byte* tiles) = 0;
  struct Update {
    const std::byte* bits = nullptr;
    const std::byte* values = nullptr;
    std::int64_t weights = 0;  // bits
    std::int64_t kept = 0;     // values: no more are read, whatever the bits say
    DType dtype = DType::f32;
  };
  struct Added {
    std::int64_t kept = 0;     // set bits among the weights'
    bool padding_set = false;  // a bit of the last word beyond them is set
    float largest = 0;         // as Packed::largest
  };
  /// tiles += the update in multiples of 2^q, halves away from zero; the same bits as
  /// aggregate::PartialMerge::add.
  virtual Added add(const Update& update, int q, std::byte* tiles) = 0;

  /// Which of equally often kept weights goes first: the one of the smallest value^2 times its column's
  /// weight, or |value|; equal ones by row-major index.
  enum class Tie { score, magnitude, index };
  /// How sums become a merged matrix: what aggregate::finish() is told, in numbers.
  struct Finish {
    std::int64_t rows = 0, cols = 0;
    DType dtype = DType::f32;
    int q = 0;                   // of the sums
    std::uint32_t clients = 1;   // no weight was kept by more
    bool divide_by_all = false;  // plain mean; else by the clients that kept the weight
    Tie tie = Tie::score;
    std::span<const std::int64_t> column_weights = {};  // score: cols values >= 0
    std::int64_t target = -1;  // weights that are to be dropped in all, -1 = those that nobody kept
    int keep = 0, group = 0;   // group > 0: of each `group` consecutive weights as many stay, and no target
  };
  struct Finished {
    std::vector<std::uint64_t> bits;  // as SparseOps::pack has them
    std::vector<std::byte> values;
    std::int64_t kept = 0;
    std::int64_t kept_zeros = 0;        // kept values that are +-0
    std::vector<std::uint32_t> votes;   // per weight: clients that dropped it
    std::vector<std::int64_t> kept_by;  // clients + 1 bins: weights that so many clients kept
    std::int64_t expanded = 0;          // weights that somebody kept and that were dropped
    bool above_target = false;          // more (N:M: in some group) than wanted were kept by nobody
  };
  /// The same bits as aggregate::finish(). The sums are used up.
  /// @pre cols is a multiple of group; not both target >= 0 and group > 0; rows cols < 2^32
  /// @throws LogicError also when a weight was kept by more than all clients
  [[nodiscard]] virtual Finished finish(const Finish& how, std::byte* tiles) = 0;
};

class Backend {
 public:
  explicit Backend(Products products = Products::f32) : products_(products) {}
  virtual ~Backend() = default;
  Backend(const Backend&) = delete;
  Backend& operator=(const Backend&) = delete;

  [[nodiscard]] virtual std::string name() const = 0;
  /// What bits depend on, e.g. "cpu/avx512/openblas-SkylakeX" (rulings.md 8).
  [[nodiscard]] virtual std::string kernel_set() const = 0;
  [[nodiscard]] Products products() const { return products_; }

  /// @throws ResourceError when the memory cannot be had. Contents are undefined.
  [[nodiscard]] Tensor allocate(std::int64_t rows, std::int64_t cols, Element element = Element::f32);
  /// Host (row-major, contiguous) -> device. @pre source.size() == destination.size()
  virtual void copy_in(std::span<const float> source, View destination) = 0;
  virtual void copy_in(std::span<const std::uint8_t> source, View destination) = 0;
  /// Host elements of a stored dtype (any alignment), widened to float. @pre bytes == destination.size() *
  /// size_of(dtype)
  virtual void copy_in_widened(DType dtype, std::span<const std::byte> source, View destination) = 0;
  virtual void copy_out(View source, std::span<float> destination) = 0;
  virtual void copy_out(View source, std::span<std::uint8_t> destination) = 0;
  /// Device to device, same shape and element.
  virtual void copy(View source, View destination) = 0;
  virtual void fill(View destination, float value) = 0;
  virtual void synchronize() = 0;
  /// Host memory of `count` floats from which copies are fastest (pinned, where there is a device). What it
  /// holds starts undefined. @throws ResourceError
  [[nodiscard]] virtual std::shared_ptr<float> allocate_host(std::int64_t count);
  /// Between a contiguous view and such memory. The copy is only queued: on the host the memory may be
  /// touched after synchronize(). @pre the view's elements are f32, `host` has as many
  virtual void store(View source, float* host);
  virtual void restore(const float* host, View destination);
  /// A hint: copy_in_widened() will soon be given these bytes, which stay where they are and as they are. A
  /// device brings them to its memory meanwhile, and keeps them until two later calls.
  virtual void prefetch(std::span<const std::span<const std::byte>> sources);
  /// Rows of activations that a forward pass should bring at a time, where it has as many: fewer take longer,
  /// more take memory.
  [[nodiscard]] virtual std::int64_t rows_per_batch() const { return kHostRowsPerBatch; }
  /// Bytes now allocated and their peak.
  [[nodiscard]] virtual std::int64_t allocated_bytes() const = 0;
  [[nodiscard]] virtual std::int64_t peak_bytes() const = 0;

  [[nodiscard]] virtual LinearOps& linear() = 0;
  [[nodiscard]] virtual ModelOps& model() = 0;
  [[nodiscard]] virtual PruneOps& prune() = 0;
  [[nodiscard]] virtual SparseOps& sparse() = 0;
  [[nodiscard]] virtual UpdateOps& updates() = 0;
  [[nodiscard]] virtual CsrOps& csr() = 0;

 protected:
  friend class Tensor;
  virtual void* allocate_bytes(std::size_t bytes) = 0;  // 64-byte aligned; may be null only when bytes == 0
  virtual void free_bytes(void* data) noexcept = 0;

 private:
  friend class Fp32Products;
  Products products_;
};

/// While it lives the backend multiplies in fp32, whatever it was made with. Non-goal: threads (a backend has
/// one user at a time).
class Fp32Products {
 public:
  explicit Fp32Products(Backend& backend)
      : backend_(backend), before_(std::exchange(backend.products_, Products::f32)) {}
  ~Fp32Products() { backend_.products_ = before_; }
  Fp32Products(const Fp32Products&) = delete;
  Fp32Products& operator=(const Fp32Products&) = delete;

 private:
  Backend& backend_;
  Products before_;
};

/// Slow and plain: the meaning of each op.
[[nodiscard]] std::unique_ptr<Backend> make_reference_backend(Products products = Products::f32);
/// "" where this CPU multiplies such operands, else what it lacks: bf16 needs AVX512-BF16, f16 is for GPUs.
[[nodiscard]] std::string lacks_for(Products products, Isa isa);
/// Opens OpenBLAS at run time, after setting the environment variable OPENBLAS_CORETYPE to what the CPU can
/// do (unless the user set it): make the first one before other threads read the environment.
/// @param threads  worker threads of this rank's backend, >= 1. @param isa  kernels; default: select_isa().
/// @throws ResourceError when there is no OpenBLAS; ConfigError where lacks_for() names something
[[nodiscard]] std::unique_ptr<Backend> make_cpu_backend(int threads, std::optional<Isa> isa = std::nullopt,
                                                        Products products = Products::f32);
/// @throws NotCompiled naming the preset when this build has no CUDA.
[[nodiscard]] std::unique_ptr<Backend> make_cuda_backend(int device);

}  // namespace fedspallm::backend
