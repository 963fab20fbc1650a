#include "daug/translator/noise.h"

#include <ATen/ATen.h>

#include "backend/upload.h"
#include "daug/core/error.h"
#include "daug/core/random.h"
#include "item_noise_like.h"

namespace daug {

at::Tensor item_noise(const std::vector<std::uint64_t>& items, std::int64_t channels, std::int64_t height,
                      std::int64_t width, std::uint64_t seed, std::string_view purpose) {
  constexpr const char* kFunction = "daug::item_noise";
  require(channels >= 0 && height >= 0 && width >= 0, kFunction, "shape", "no negative size",
          detail::concat(channels, "x", height, "x", width));
  at::Tensor noise = at::empty({static_cast<std::int64_t>(items.size()), channels, height, width});
  auto* out = noise.data_ptr<float>();
  const std::int64_t count = channels * height * width;
  for (std::uint64_t item : items) {
    RandomStream stream(seed, item, purpose);
    for (std::int64_t i = 0; i < count; ++i) *out++ = static_cast<float>(stream.normal());
  }
  return noise;
}

at::Tensor detail::item_noise_like(const at::Tensor& x, const std::vector<std::uint64_t>& items, std::uint64_t seed,
                                   std::string_view purpose) {
  const at::Tensor drawn = item_noise(items, x.size(1), x.size(2), x.size(3), seed, purpose);
  return backend::upload(drawn, x.device()).to(x.scalar_type());
}

}  // namespace daug
