// A user's program of the whole library, C++17.
#include <ATen/ATen.h>

#include <cmath>
#include <cstdio>

#include "daug/loss/hybrid_contrastive_loss.h"
#include "daug/translator/noise_schedule.h"

int main() {
  // Orthogonal pairs: S is tau times the identity, so L_clip = log(e^tau + 1) - tau.
  daug::HybridLossOptions options;
  options.clip_weight = 1;
  options.logit_scale = 0;
  const at::Tensor embeddings = at::eye(2);
  const double loss = daug::HybridContrastiveLoss(options)(embeddings, embeddings, {}, {}).total.item<double>();
  if (std::abs(loss - (std::log(std::exp(1.0) + 1) - 1)) > 1e-6) return 1;
  if (daug::NoiseSchedule::linear().abar(0) != 1) return 1;
  std::puts("ok");
  return 0;
}
