#include "item_noise.h"

#include <ATen/ATen.h>

#include "backend/upload.h"
#include "daug/core/random.h"

namespace daug::detail {

at::Tensor path_factors(double rate, std::int64_t blocks, std::int64_t branches, const ItemNoise& noise,
                        const at::Tensor& like) {
  const auto rows = blocks * branches, count = static_cast<std::int64_t>(noise.items.size());
  const at::Tensor factors = at::empty({rows, count}, at::kDouble);
  auto* values = factors.data_ptr<double>();
  for (std::int64_t item = 0; item < count; ++item) {
    RandomStream stream(noise.seed, noise.items[static_cast<std::size_t>(item)], "drop path");
    for (std::int64_t row = 0; row < rows; ++row) {
      const double dropped = rate * static_cast<double>(row / branches + 1) / static_cast<double>(blocks);
      values[row * count + item] = stream.uniform() < dropped ? 0 : 1 / (1 - dropped);
    }
  }
  return backend::upload(factors.to(like.scalar_type()), like.device());
}

at::Tensor scaled_path(const at::Tensor& branch, const at::Tensor& factors, std::int64_t row) {
  if (!factors.defined()) return branch;
  std::vector<std::int64_t> shape(static_cast<std::size_t>(branch.dim()), 1);
  shape[0] = -1;
  return branch * factors[row].view(shape);
}

at::Tensor hidden_channels(double rate, std::int64_t channels, const ItemNoise& noise) {
  const auto count = static_cast<std::int64_t>(noise.items.size());
  const at::Tensor hidden = at::empty({count, channels, 1, 1}, at::kBool);
  auto* value = hidden.data_ptr<bool>();
  for (const auto item : noise.items) {
    RandomStream stream(noise.seed, item, "hidden channels");
    const bool all = stream.uniform() < rate;
    for (std::int64_t channel = 0; channel < channels; ++channel) {
      const bool this_one = stream.uniform() < rate;
      *value++ = all || this_one;
    }
  }
  return hidden;
}

}  // namespace daug::detail
