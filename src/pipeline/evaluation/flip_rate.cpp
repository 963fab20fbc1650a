#include "flip_rate.h"

#include <ATen/ATen.h>

#include <limits>

namespace daug {

RetrievalValues flips(const RunData& data, const std::vector<std::size_t>& rows, const at::Tensor& before,
                      const std::function<at::Tensor(std::int64_t map)>& after) {
  RetrievalValues flipped{rows.size(), data.findings(), {}};
  flipped.values.assign(rows.size() * data.findings(), std::numeric_limits<double>::quiet_NaN());
  for (std::size_t f = 0; f < data.findings(); ++f) {
    const auto map = data.map_of(f);
    if (!map) continue;
    const auto finding = static_cast<std::int64_t>(f);
    const at::Tensor changed = after(static_cast<std::int64_t>(*map));
    for (std::size_t i = 0; i < rows.size(); ++i) {
      const auto at = static_cast<std::int64_t>(i);
      if (data.state(rows[i], f) > 0 && before[at][finding].item<float>() > 0.5F)
        flipped.values[i * data.findings() + f] = changed[at][finding].item<float>() < 0.5F ? 1 : 0;
    }
  }
  return flipped;
}

std::string flip_rate_definition(const RunData& data) {
  return "of the images positive for a finding that the image-only encoder calls positive (probability above 0.5), the "
         "share it calls negative after translation; macro over findings" +
         data.text_note();
}

}  // namespace daug
