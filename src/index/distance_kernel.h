#pragma once
// Distances of vectors coded in int8, for searches that need not be exact. One version for every instruction set,
// chosen at run time.

#include <cstddef>
#include <cstdint>

namespace daug::detail {

/// What the numbers of codes in `code_product` are a multiple of.
constexpr std::size_t kCodeStep = 64;

/// Sum of products; exact for up to 2^17 codes, none of them -128.
std::int32_t code_product(const std::int8_t* a, const std::int8_t* b, std::size_t size);

}  // namespace daug::detail
