#pragma once
// LibTorch's threads for kernels that know nothing of LibTorch.

#include "kernels/parallel.h"

namespace daug::backend {

/// LibTorch's intra-op threads; none inside a parallel region or when there is only one.
kernels::Parallel torch_threads();

}  // namespace daug::backend
