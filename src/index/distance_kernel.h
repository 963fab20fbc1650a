#pragma once
// Distances in float, for searches that need not be exact. One version for every instruction set, chosen at run time.

#include <cstddef>

namespace daug::detail {

float dot_product(const float* a, const float* b, std::size_t size);
float squared_distance(const float* a, const float* b, std::size_t size);

}  // namespace daug::detail
