#include "daug/translator/finite_check.h"

#include <ATen/ATen.h>

#include <exception>

#include "backend/fitting_rows.h"
#include "daug/translator/noise_predictor.h"

namespace daug {

void FiniteCheck::see(const at::Tensor& x, const std::string& where, const RowName& name) {
  const at::ScalarType type = x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  const Seen seen = {where, name, name ? x.flatten(1).sum(1, /*keepdim=*/false, type) : x.sum(type).reshape({1})};
  if (x.is_cpu()) return require_finite_sums(seen, seen.sums);
  seen_.push_back(seen);
}

void FiniteCheck::require_finite_sums(const Seen& seen, const at::Tensor& sums) const {
  std::string where = seen.where;
  if (seen.name)
    if (const at::Tensor bad = sums.isfinite().logical_not(); bad.any().item<bool>())
      where += ", " + seen.name(bad.to(at::kInt).argmax().item<std::int64_t>());
  require_finite(sums, function_, where);
}

void FiniteCheck::settle() try {
  if (seen_.empty()) return;
  std::vector<at::Tensor> sums;
  for (const Seen& seen : seen_) sums.push_back(seen.sums);
  const at::Tensor all = at::cat(sums).to(at::kCPU);
  std::int64_t begin = 0;
  for (const Seen& seen : seen_) {
    require_finite_sums(seen, all.narrow(0, begin, seen.sums.size(0)));
    begin += seen.sums.size(0);
  }
  seen_.clear();
} catch (const std::exception& error) {
  // The program may have waited for nothing before: what failed in the last calls of a walk is found out here.
  backend::rethrow_typed(error, function_);
}

}  // namespace daug
