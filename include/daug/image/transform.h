#pragma once
/// @file
/// Geometric augmentation, one transform for a picture and everything that belongs to it.

#include <vector>

#include "daug/core/random.h"

namespace daug {

/// A similarity about the picture's centre: flip, then scale, then rotate, then shift.
struct AffineParams {
  double rotation_deg = 0;  ///< clockwise on the screen, degrees
  double shift_x = 0;       ///< fraction of the width; positive moves to the right
  double shift_y = 0;       ///< fraction of the height; positive moves down
  double scale = 1;         ///< > 0; above 1 enlarges
  bool flip = false;        ///< left to right

  /// Throws kInvalidArgument for a value that is not finite or scale <= 0.
  void validate() const;
};

/// Ranges of random_affine. The defaults move little enough to keep a frontal radiograph plausible.
struct AugmentOptions {
  double max_rotation_deg = 10;  ///< degrees either way, in [0, 180]
  double max_shift = 0.05;       ///< fraction of a side either way, in [0, 1]
  double max_scale = 0.1;        ///< scale is within [1 / (1 + m), 1 + m], log-uniform; m in [0, 1]
  bool flip = false;             ///< mirror every other picture; exchanges left and right, so the heart moves too

  /// Throws kInvalidArgument naming the first option out of range.
  void validate() const;
};

/// Draws a transform. Takes five uniforms in every case, so one option does not change what the others draw. Throws
/// what AugmentOptions::validate throws.
AffineParams random_affine(const AugmentOptions& options, RandomStream& random);

/// (x, y) -> (xx * x + xy * y + x0, yx * x + yy * y + y0).
struct AffineMatrix {
  double xx = 1,  ///< factor of x in the new x
      xy = 0,     ///< factor of y in the new x
      x0 = 0;     ///< added to the new x, in the unit of the points
  double yx = 0,  ///< factor of x in the new y
      yy = 1,     ///< factor of y in the new y
      y0 = 0;     ///< added to the new y, in the unit of the points

  /// The matrix that takes results back. Throws kInvalidArgument when there is none (determinant 0 or not finite).
  AffineMatrix inverse() const;
};

/// The matrix that takes a source point to its place in the result, in pixels of a width x height picture; pixel
/// (i, j) has its centre at (i + 0.5, j + 0.5). Throws what AffineParams::validate throws.
AffineMatrix affine_matrix(const AffineParams& params, int width, int height);

/// Moves `channels` planes of height x width (contiguous, row-major) by one transform, bilinearly. What comes from
/// outside a plane is its `fill` value (one a channel, or one for all). The identity returns the input exactly.
/// Throws kInvalidArgument. Deterministic.
std::vector<float> warp(const float* planes, int channels, int height, int width, const AffineParams& params,
                        const std::vector<float>& fill);

}  // namespace daug
