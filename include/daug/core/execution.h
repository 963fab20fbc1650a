#pragma once
/// @file
/// Which implementation does the work where an operation has several.

namespace daug {

/// Results agree up to rounding; tests compare them.
enum class Execution {
  kAuto,       ///< the fused one where it applies, else the reference
  kReference,  ///< LibTorch's operators: any device and dtype, differentiable where the operation is
  kFused,      ///< one pass over memory; refused where there is none for these arguments
};

}  // namespace daug
