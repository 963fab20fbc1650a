#pragma once
/// @file
/// How a tower that gets its weights from a file is built.

namespace daug {

/// In place of a seed: weights are loaded next, so none are drawn (that takes longer than reading them). Until then
/// their values are unspecified.
struct LoadedLater {};

}  // namespace daug
