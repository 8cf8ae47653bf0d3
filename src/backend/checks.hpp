// SPDX-License-Identifier: Apache-2.0
// Purpose: the preconditions of every op, written once for all backends. Each throws LogicError naming the
// op, what was found and what was expected. Non-goal: looking at elements (except token targets, which are
// host data).
#pragma once

#include "fedspallm/backend/backend.hpp"

#include <cstdint>
#include <optional>
#include <span>

namespace fedspallm::backend::checks {

/// A pivot of the factorization counts as positive when it exceeds this times the diagonal element that it
/// came from: below one unit of fp32's last place there, it is rounding and nothing else.
constexpr float pivot_tolerance = 0x1p-23F;

// LinearOps
void linear(const Backend* owner, const View& x, const View& w, const View& bias, const View& y);
void subtract_product(const Backend* owner, const View& a, const View& b, const View& c);
void gram(const Backend* owner, const View& x, const View& h);
void inverse_upper_factor(const Backend* owner, const View& h);

// ModelOps
void norm(const Backend* owner, Norm kind, const View& x, const View& weight, const View& bias,
          const View& y);
void rope(const Backend* owner, const View& x, const View& cosine, const View& sine, std::int64_t heads);
void causal_attention(const Backend* owner, const View& q, const View& k, const View& v,
                      const AttentionShape& shape, const View& out);
void silu_multiply(const Backend* owner, const View& gate, const View& up);
void activate(const Backend* owner, const View& x);
void add(const Backend* owner, const View& x, const View& y);
void token_nll(const Backend* owner, const View& logits, std::span<const std::int32_t> targets,
               std::span<const double> nll);
void first_non_finite(const Backend* owner, const View& x);

// PruneOps
void scores(const Backend* owner, const View& w, const View& row, const View& score);
void prefer_dropped(const Backend* owner, const View& previous_mask, const View& score);
void select_smallest(const Backend* owner, const View& score, std::int64_t count, const View& mask);
void select_smallest_per_row(const Backend* owner, const View& score, std::span<const std::int64_t> counts,
                             const View& mask);
void select_published(const Backend* owner, const View& score, std::int64_t index, const View& mask);
void obs_block(const Backend* owner, const View& w, const View& u, const View& mask, const View& error);
void obs_block_n_of_m(const Backend* owner, const View& w, const View& u, int keep, int m,
                      const View& previous_mask, const View& mask, const View& error);
void select_n_of_m(const Backend* owner, const View& score, int keep, int m, const View& mask);
void apply_mask(const Backend* owner, const View& mask, const View& w);
void round_to_dtype(const Backend* owner, const View& w);
void add_squares(const Backend* owner, const View& x);
/// The sum of a backend on the host. @throws LogicError where it was not started
[[nodiscard]] double started_squares(const std::optional<double>& sum);

// SparseOps
void pack(const Backend* owner, const View& w, const View& mask, std::span<const std::uint64_t> bits);
/// Also that no padding bit is set and that the values are exactly those of the set bits. @return
/// popcount(bits)
std::int64_t unpack(const Backend* owner, std::span<const std::uint64_t> bits,
                    std::span<const std::byte> values, DType dtype, const View& w);
void unpack_mask(const Backend* owner, std::span<const std::uint64_t> bits, const View& mask);

// Backend
void pack_update(const Backend* owner, const View& w, const View& mask);
void add_update(const UpdateOps::Update& update);
void finish_merge(const UpdateOps::Finish& how);
void csr_compress(const Backend* owner, const View& w);
void csr_expand(const Backend* owner, const CsrMatrix& matrix, const View& w);
void csr_linear(const Backend* owner, const View& x, const CsrMatrix& w, const View& bias, const View& y);
void host_copy(const Backend* owner, const View& view, Element element, std::size_t host_elements);
void widened_copy(const Backend* owner, const View& view, DType dtype, std::size_t host_bytes);
void device_copy(const Backend* owner, const View& source, const View& destination);
void fill(const Backend* owner, const View& destination, float value);

}  // namespace fedspallm::backend::checks
