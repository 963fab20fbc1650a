// Says what a safetensors file of diffusion weights is: which network, which options its shapes imply, and what of it
// would not load.
//
//   inspect_weights FILE
//
// Exit status: 0 it would load, 1 it would not, 2 wrong arguments.
#include "daug/pipeline/inspect_weights.h"

int main(int argc, char** argv) { return daug::inspect_weights_program(argc, argv); }
