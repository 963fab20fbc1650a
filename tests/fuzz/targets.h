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
  bool encoder_file = false;  ///< has a time of its own, see driver.cpp
};
/// For readers of tokenizers', encoders' and labels' files, which people bring along from elsewhere, and of encoders'
/// training.
inline constexpr bool kEncoderFile = true;

/// The targets of this program.
const std::vector<Target>& targets();

}  // namespace daug::fuzz
