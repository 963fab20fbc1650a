#pragma once
// One step of a sampler: guidance, clipping and the transition to the next level, in one pass.

#include <cstdint>

#include "kernels/parallel.h"

namespace daug::kernels {

/// output = keep * x + add * e + previous_weight * previous, where
///     e = base + weight * strength * (first - second) - gradient_weight * strength * gradient
/// and base is `first`, or `second` with from_second. With `clip` each estimate is replaced beforehand by the one whose
/// clean image, (x - deviation * estimate) / signal, is the former's held in [-1, 1].
///
/// second, gradient, strength (1) and previous may be null. All but strength are [lanes, elements] without gaps. T: the
/// elements' type, or void where it is said apart (device kernels).
template <class T>
struct SolverUpdateOf {
  std::int64_t lanes = 0;     ///< rows with a strength of their own, may be 0
  std::int64_t elements = 0;  ///< of a lane, may be 0

  const T* x = nullptr;
  const T* first = nullptr;         ///< noise estimate
  const T* second = nullptr;        ///< noise estimate it is set against
  const T* gradient = nullptr;      ///< of a classifier's log-likelihood
  const float* strength = nullptr;  ///< [lanes]
  const T* previous = nullptr;      ///< a state the solver remembers
  T* output = nullptr;              ///< may be x; otherwise overlaps nothing

  double weight = 0;
  bool from_second = false;
  double gradient_weight = 0;
  double keep = 1;  ///< 0: nothing of x, not even what is not finite
  double add = 0;
  double previous_weight = 0;

  bool clip = false;
  double signal = 1;     ///< sqrt(abar) at the level of x, > 0; used by clip
  double deviation = 1;  ///< sqrt(1 - abar) there, > 0; used by clip
};
using SolverUpdate = SolverUpdateOf<float>;

/// Every input is read once, the output written once. Bit-equal whatever `parallel` is.
void solver_update(const SolverUpdate& update, const Parallel& parallel);

}  // namespace daug::kernels
