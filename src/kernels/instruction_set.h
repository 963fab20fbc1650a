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

/// Whether this processor multiplies bfloat16 (AVX-512 BF16, which those with AMX have too). Without it bfloat16 is
/// slower than float32. The kernels do not use it; what calls LibTorch's products does.
bool multiplies_bfloat16();

}  // namespace daug::kernels
