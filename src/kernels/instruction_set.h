#pragma once
// Which of the compiled instruction sets the kernels use.

#include <string>
#include <vector>

namespace daug::kernels {

/// Sets that were compiled in and that this processor has, best first; the last one is "SCALAR" or the lowest the
/// compiler was told to assume.
std::vector<std::string> instruction_sets();

/// The set in use: the best one unless chosen otherwise.
std::string instruction_set();

/// Uses one of instruction_sets() from now on in the whole process, or the best one again when the name is empty. For
/// tests and benchmarks. Throws kInvalidArgument for a name that is not among them.
void use_instruction_set(const std::string& name);

}  // namespace daug::kernels
