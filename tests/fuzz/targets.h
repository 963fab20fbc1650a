#pragma once
// Readers of files under arbitrary bytes. A program defines its targets; driver.cpp or libFuzzer feeds them.

#include <string>
#include <vector>

namespace daug::fuzz {

/// One reader. `run` takes any bytes in: it aborts when the reader accepts what it must not, or refuses by another way
/// than a documented error. Crashes are the sanitizers' to find.
struct Target {
  const char* name;
  std::vector<std::string> (*seeds)();  ///< good files
  void (*run)(const std::string& bytes);
};

/// The targets of this program.
const std::vector<Target>& targets();

}  // namespace daug::fuzz
