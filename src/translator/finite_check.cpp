#include "daug/translator/finite_check.h"

#include <ATen/ATen.h>

#include "daug/translator/noise_predictor.h"

namespace daug {

void FiniteCheck::see(const at::Tensor& x, const std::string& where) {
  if (x.is_cpu()) return require_finite(x, function_, where);
  sums_.push_back(x.sum(x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat));
  where_.push_back(where);
}

void FiniteCheck::settle() {
  if (sums_.empty()) return;
  const at::Tensor sums = at::stack(sums_).to(at::kCPU);
  for (std::size_t i = 0; i < where_.size(); ++i)
    require_finite(sums[static_cast<std::int64_t>(i)], function_, where_[i]);
  sums_.clear();
  where_.clear();
}

}  // namespace daug
