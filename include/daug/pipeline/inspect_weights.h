#pragma once
/// @file
/// What a file of diffusion weights is, as a program says it.

namespace daug {

/// The program `inspect_weights FILE`: prints what a safetensors file holds, which network of guided-diffusion's family
/// it is, the options that its shapes imply and those that they do not tell (inspect_unet), and what would not load.
/// Returns the exit status: 0 all of it would load, 1 it would not or cannot be read (message on standard error), 2 for
/// wrong arguments.
int inspect_weights_program(int argc, const char* const* argv);

}  // namespace daug
