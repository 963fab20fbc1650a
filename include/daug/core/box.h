#pragma once
/// @file
/// An axis-parallel rectangle on a picture.

namespace daug {

/// A rectangle in pixels. Pixel (row r, column c) covers [c, c+1) x [r, r+1), so an image spans [0, W) x [0, H).
struct Box {
  double x = 0;       ///< left edge
  double y = 0;       ///< top edge
  double width = 0;   ///< >= 0
  double height = 0;  ///< >= 0

  /// Area in square pixels.
  double area() const { return width * height; }
  /// Half-open, like pixels: the right and bottom edges are outside.
  bool contains(double px, double py) const { return px >= x && px < x + width && py >= y && py < y + height; }
  /// The same place in an image resized by these factors (new size / old size).
  Box scaled(double factor_x, double factor_y) const {
    return {x * factor_x, y * factor_y, width * factor_x, height * factor_y};
  }
};

}  // namespace daug
