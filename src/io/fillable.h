#pragma once
// Whether a file of weights can fill a network, asked before memory is set aside for one.

#include <string>

#include "daug/core/error.h"
#include "daug/io/safetensors.h"

namespace daug::detail {

/// Throws kMismatch for a network of far more numbers than the file has; `about` may be half or twice the network's.
/// What differs by less is small enough to be built and reported key by key.
inline void require_fillable(double about, const SafetensorsFile& file, const char* function,
                             const std::string& argument) {
  double values = 0;
  for (const auto& [key, array] : file.tensors) values += static_cast<double>(array.numel());
  if (about > 2 * values + 1e6)
    fail(ErrorCode::kMismatch, function, argument, concat("about the ", values, " numbers of the file"), about);
}

}  // namespace daug::detail
