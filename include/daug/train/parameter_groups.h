#pragma once
/// @file
/// Which parameters are trained, and how fast.

#include <cstdint>
#include <string>
#include <vector>

namespace torch::nn {
class Module;
}

namespace daug {

/// Switches the gradients off of every parameter of `module` whose full name matches one of `patterns`; returns how
/// many. A pattern is a shell's for file names, matched against the whole name (POSIX fnmatch without flags): `*` is
/// any run of characters, dots among them, `?` one character, `[ab]` one of some. "image.*" is a tower, "*.bias" every
/// bias. Throws kInvalidArgument naming a pattern that matches no parameter.
std::int64_t freeze_parameters(torch::nn::Module& module, const std::vector<std::string>& patterns);

/// Factor on the learning rate of each parameter that decays from the output of a network to its input (layer-wise
/// learning-rate decay; ELECTRA, arXiv 2003.10555, and BEiT, arXiv 2106.08254):
///
///     scale = decay^(blocks + 1 - depth),   depth 0: what reads the input; i + 1: block i; blocks + 1: all else
///
/// Names are read from the left up to the first part that says what a parameter belongs to:
/// - block i: `layers.i`, `blocks.i`, `resblocks.i` (transformers, the convolutional network); `layer(i+1)` (a stage of
///   torchvision's ResNet); `denseblock(i+1)`, `transition(i+1)` (of its DenseNet);
/// - the input: `embeddings`, `pre_layrnorm`, `stem`, `conv0`, `norm0`, `conv1`, `bn1`;
/// - the output: `pool`, and all that has none of these parts: last norms, projections, heads.
///
/// `blocks` is counted in each tower, which is the first part of a name ("image", "text", "vision_model"), or all that
/// begins with one of the parts above. Weights of channels added to a first layer and their gates (`*.extra_weight`,
/// `*.extra_gate`) are new: they keep 1.
///
/// Throws kInvalidArgument for a decay outside (0, 1], and for one below 1 when no name has a block.
std::vector<double> layer_rate_scales(const std::vector<std::string>& names, double decay);

}  // namespace daug
