// SPDX-License-Identifier: Apache-2.0
#include "tensor_loading.hpp"

#include "fedspallm/base/error.hpp"

#include <fmt/format.h>

namespace fedspallm::model {

void load_into(const ModelDirectory& model, const std::string& name, backend::Backend& backend,
               backend::View destination) {
  const TensorView source = model.tensor(name);
  const SafetensorsFile& file = model.shards()[source.shard];
  file.mapping().will_need(source.bytes);
  backend.copy_in_widened(source.dtype(), source.bytes, destination);
  const auto bad = backend.model().first_non_finite(destination);
  // The bytes are not needed again soon: without this a rank's resident memory would grow to the whole model.
  file.mapping().drop(source.bytes);
  if (!bad) return;
  const std::int64_t cols = destination.cols();
  throw NumericalError(fmt::format("{}: tensor '{}': element [{}, {}] is NaN or infinite",
                                   file.path().string(), name, *bad / cols, *bad % cols));
}

backend::Tensor load_tensor(const ModelDirectory& model, const std::string& name, backend::Backend& backend) {
  const std::vector<std::int64_t>& shape = model.tensor(name).entry->shape;
  require(shape.size() == 1 || shape.size() == 2, "a tensor of the architecture has one or two dimensions");
  backend::Tensor tensor =
      shape.size() == 1 ? backend.allocate(1, shape[0]) : backend.allocate(shape[0], shape[1]);
  load_into(model, name, backend, tensor);
  return tensor;
}

NormTensors load_norm(const ModelDirectory& model, const std::string& stem, backend::Backend& backend) {
  const Architecture& architecture = model.architecture();
  NormTensors result;
  if (architecture.norm_affine) {
    result.weight = load_tensor(model, stem + ".weight", backend);
  } else {
    result.weight = backend.allocate(1, architecture.hidden_size);
    backend.fill(result.weight, 1.0F);
  }
  if (architecture.norm_affine_bias) result.bias = load_tensor(model, stem + ".bias", backend);
  return result;
}

}  // namespace fedspallm::model
