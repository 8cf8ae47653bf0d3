// SPDX-License-Identifier: Apache-2.0
// Rows and spans of the forward pass. Sums run in fp32 lanes over at most 4096 elements and in double beyond.
#include "kernels.hpp"
#include "simd.hpp"
#include "softmax_kernel.hpp"

namespace fedspallm::backend::cpu::FEDSPALLM_ISA {
namespace {

constexpr std::int64_t chunk = 4096;

/// Applies `vector(index, part)` to whole vectors and the rest of [0, n).
template <class Whole, class Part>
inline void for_vectors(std::int64_t n, Whole whole, Part part) {
  std::int64_t i = 0;
  for (; i + width <= n; i += width) whole(i);
  if (i < n) part(i, n - i);
}

/// x[i] = f(x[i]).
template <class F>
inline void map(float* x, std::int64_t n, F f) {
  for_vectors(
      n, [&](std::int64_t i) { store(x + i, f(load(x + i))); },
      [&](std::int64_t i, std::int64_t count) {
        store_part(x + i, count, f(load_part(x + i, count, 0.0F)));
      });
}

/// y[i] = f(x[i], y[i]).
template <class F>
inline void zip(const float* x, float* y, std::int64_t n, F f) {
  for_vectors(
      n, [&](std::int64_t i) { store(y + i, f(load(x + i), load(y + i))); },
      [&](std::int64_t i, std::int64_t count) {
        store_part(y + i, count, f(load_part(x + i, count, 0.0F), load_part(y + i, count, 0.0F)));
      });
}

/// Sum of f(x[i]), chunk by chunk in double, with `rest` standing for elements beyond the end (f(rest) == 0).
template <class F>
inline double sum(const float* x, std::int64_t n, float rest, F f) {
  double total = 0.0;
  for (std::int64_t first = 0; first < n; first += chunk) {
    const std::int64_t count = n - first < chunk ? n - first : chunk;
    const float* from = x + first;
    Floats lanes[4] = {};
    std::int64_t i = 0;
    for (; i + 4 * width <= count; i += 4 * width)
      for (int k = 0; k < 4; ++k) lanes[k] += f(load(from + i + k * width));
    for (; i + width <= count; i += width) lanes[0] += f(load(from + i));
    if (i < count) lanes[1] += f(load_part(from + i, count - i, rest));
    total += static_cast<double>(sum_of((lanes[0] + lanes[1]) + (lanes[2] + lanes[3])));
  }
  return total;
}

inline float inverse_root(double mean_square, float epsilon) {
  return static_cast<float>(1.0 / __builtin_sqrt(mean_square + static_cast<double>(epsilon)));
}

void rms_norm(const float* x, const float* weight, float epsilon, std::int64_t n, float* y) {
  const double squares = sum(x, n, 0.0F, [](Floats v) { return v * v; });
  const Floats factor = all(inverse_root(squares / static_cast<double>(n), epsilon));
  for_vectors(
      n, [&](std::int64_t i) { store(y + i, load(x + i) * factor * load(weight + i)); },
      [&](std::int64_t i, std::int64_t count) {
        store_part(y + i, count, load_part(x + i, count, 0.0F) * factor * load_part(weight + i, count, 0.0F));
      });
}

void layer_norm(const float* x, const float* weight, const float* bias, float epsilon, std::int64_t n,
                float* y) {
  const auto mean = static_cast<float>(sum(x, n, 0.0F, [](Floats v) { return v; }) / static_cast<double>(n));
  const Floats centre = all(mean);
  const double squares = sum(x, n, mean, [&](Floats v) { return (v - centre) * (v - centre); });
  const Floats factor = all(inverse_root(squares / static_cast<double>(n), epsilon));
  for_vectors(
      n,
      [&](std::int64_t i) {
        const Floats offset = bias == nullptr ? Floats{} : load(bias + i);
        store(y + i, (load(x + i) - centre) * factor * load(weight + i) + offset);
      },
      [&](std::int64_t i, std::int64_t count) {
        const Floats offset = bias == nullptr ? Floats{} : load_part(bias + i, count, 0.0F);
        const Floats scaled = (load_part(x + i, count, 0.0F) - centre) * factor;
        store_part(y + i, count, scaled * load_part(weight + i, count, 0.0F) + offset);
      });
}

void rope(float* x, const float* cosine, const float* sine, std::int64_t heads, std::int64_t half) {
  for (std::int64_t head = 0; head < heads; ++head) {
    float* first = x + head * 2 * half;
    float* second = first + half;
    for_vectors(
        half,
        [&](std::int64_t i) {
          const Floats a = load(first + i), b = load(second + i), c = load(cosine + i), s = load(sine + i);
          store(first + i, a * c - b * s);
          store(second + i, b * c + a * s);
        },
        [&](std::int64_t i, std::int64_t count) {
          const Floats a = load_part(first + i, count, 0.0F), b = load_part(second + i, count, 0.0F);
          const Floats c = load_part(cosine + i, count, 0.0F), s = load_part(sine + i, count, 0.0F);
          store_part(first + i, count, a * c - b * s);
          store_part(second + i, count, b * c + a * s);
        });
  }
}

void silu_multiply(float* gate, const float* up, std::int64_t n) {
  zip(up, gate, n, [](Floats u, Floats g) { return g / (exponential(-g) + 1.0F) * u; });
}

void relu(float* x, std::int64_t n) {
  map(x, n, [](Floats v) { return v < Floats{} ? Floats{} : v; });  // NaN stays NaN
}

/// x Phi(x). With a = |x| / sqrt 2: Phi(-|x|) = e^(-a^2) erfcx(a) / 2, erfcx(a) = t p(t), t = 1 / (1 + 0.4
/// a), p fitted to 8e-9 relative (minimax by reweighted least squares over 0 <= a <= 10). So the left tail
/// keeps its digits.
void gelu(float* x, std::int64_t n) {
  map(x, n, [](Floats v) {
    const Floats a = (v < Floats{} ? -v : v) * all(0.70710678F);
    const Floats t = all(1.0F) / (a * all(0.4F) + 1.0F);
    constexpr float coefficients[] = {-0.029593488201498985F, 0.1980086863040924F,  -0.49880102276802063F,
                                      0.5474217534065247F,    -0.2843555212020874F, 0.272060364484787F,
                                      0.12968158721923828F,   0.21491868793964386F, 0.2249520719051361F,
                                      0.22570690512657166F};
    Floats p = all(coefficients[0]);
    for (int i = 1; i < 10; ++i) p = p * t + coefficients[i];
    const Floats tail = exponential(-(a * a)) * (p * t) * 0.5F;
    return v * (v < Floats{} ? tail : 1.0F - tail);
  });
}

void add(const float* x, float* y, std::int64_t n) {
  zip(x, y, n, [](Floats a, Floats b) { return a + b; });
}

double log_sum_exp(const float* x, std::int64_t n) {
  const float top = largest(x, n);
  const Floats centre = all(top);
  const double total = sum(x, n, -__builtin_inff(), [&](Floats v) { return exponential(v - centre); });
  return static_cast<double>(top) + __builtin_log(total);
}

std::int64_t first_non_finite(const float* x, std::int64_t n) {
  std::int64_t i = 0;
  for (; i + 8 * width <= n; i += 8 * width) {
    Ints found = {};
    for (int k = 0; k < 8; ++k) {
      const Floats v = load(x + i + k * width);
      const Floats zero_or_nan = v - v;  // infinity - infinity is NaN as well
      found |= (Ints)(zero_or_nan != zero_or_nan);
    }
    std::int32_t any = 0;
    for (int k = 0; k < width; ++k) any |= found[k];
    if (any != 0) break;
  }
  for (; i < n; ++i)
    if (!__builtin_isfinite(x[i])) return i;
  return -1;
}

}  // namespace

ModelKernels model_kernels() {
  return {rms_norm, layer_norm, rope, silu_multiply, relu, gelu, add, log_sum_exp, first_non_finite};
}

}  // namespace fedspallm::backend::cpu::FEDSPALLM_ISA
