#include "daug/loss/deferred_checks.h"

#include <ATen/ATen.h>

#include <utility>

#include "daug/core/error.h"

namespace daug {

void DeferredChecks::begin(std::int64_t step, const at::Tensor& counts) {
  step_ = step;
  counts_ = passed_ = counts;
}

void DeferredChecks::see(const at::Tensor& good, Refusal refuse) {
  noted_.push_back({step_, counts_.defined() ? good.logical_or(counts_.logical_not()) : good, std::move(refuse)});
  passed_ = passed_.defined() ? passed_.logical_and(good) : good;
}

void DeferredChecks::settle() {
  if (noted_.empty()) return;
  const std::vector<Noted> noted = std::exchange(noted_, {});
  std::vector<at::Tensor> verdicts;
  for (const Noted& check : noted) verdicts.push_back(check.good);
  const at::Tensor good = at::stack(verdicts).to(at::kCPU);
  for (std::size_t i = 0; i < noted.size(); ++i) {
    if (good.const_data_ptr<bool>()[i]) continue;
    try {
      noted[i].refuse();
    } catch (const Error& error) {
      throw Error(error.code(), detail::concat(error.what(), ", in step ", noted[i].step));
    }
  }
}

}  // namespace daug
