#pragma once
// One step of AdamW and of the running average of what it trains, in one pass.

#include <cstdint>

namespace daug::kernels {

/// With g = factor * gradient and t the number of steps, this one included:
///     m <- beta1 m + (1 - beta1) g,  v <- beta2 v + (1 - beta2) g^2
///     w <- w (1 - rate decay) - rate (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + epsilon)
///     average <- average_decay average + (1 - average_decay) w
/// (Loshchilov and Hutter, arXiv 1711.05101.) Arrays hold `elements` numbers each and do not overlap.
struct AdamwStep {
  std::int64_t elements = 0;  ///< may be 0

  const float* gradient = nullptr;
  float* weights = nullptr;        ///< w
  float* first_moment = nullptr;   ///< m
  float* second_moment = nullptr;  ///< v
  float* average = nullptr;        ///< null: none
  float* steps = nullptr;          ///< [1] those before, and with this one afterwards
  const double* factor = nullptr;  ///< [1]; null: 1
  const bool* applied = nullptr;   ///< [1] false: nothing changes, whatever gradient and factor are; null: true

  double rate = 0;           ///< >= 0
  double decay = 0;          ///< >= 0
  double beta1 = 0.9;        ///< in [0, 1)
  double beta2 = 0.999;      ///< in [0, 1)
  double epsilon = 1e-8;     ///< > 0
  double average_decay = 0;  ///< in [0, 1]
};

/// Floats of device memory that adamw_device works with.
constexpr std::int64_t kAdamwWorkspace = 4;

}  // namespace daug::kernels
