#pragma once
// What a checkpoint holds: layers, counted by their keys, and numbers.

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <string>

#include "daug/io/safetensors.h"

namespace daug::detail {

/// The largest number that follows `prefix` in a key, -1 without one. Stranger keys are left to the report of a load.
inline std::int64_t largest_number(const SafetensorsFile& file, const std::string& prefix) {
  std::int64_t largest = -1;
  for (auto key = file.tensors.lower_bound(prefix); key != file.tensors.end(); ++key) {
    if (key->first.compare(0, prefix.size(), prefix) != 0) break;
    const std::string number = key->first.substr(prefix.size(), 4);
    largest = std::max<std::int64_t>(largest, std::atoi(number.c_str()));
  }
  return largest;
}

/// Numbers in all tensors together.
inline double values_in(const SafetensorsFile& file) {
  double values = 0;
  for (const auto& [key, array] : file.tensors) values += static_cast<double>(array.numel());
  return values;
}

}  // namespace daug::detail
