#pragma once
// What benchmarks and their peers exchange, so that outputs are compared before anything is timed.

#include <cstdlib>
#include <string>

namespace daug::bench {

/// Path of a file of that name in the folder DAUG_PEER_FILES, from which benchmarks/peers read weights, inputs and
/// outputs; empty without that variable: then nothing is written.
inline std::string peer_file(const std::string& name) {
  const char* folder = std::getenv("DAUG_PEER_FILES");
  return folder ? std::string(folder) + "/" + name : std::string();
}

}  // namespace daug::bench
