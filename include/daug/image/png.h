#pragma once
/// @file
/// Pictures to PNG files.

#include <cstdint>
#include <string>
#include <vector>

#include "daug/image/image.h"

namespace daug {

/// 8-bit gray PNG: values are clamped to [0, 1] and rounded to the nearest of 256 levels. Deterministic.
/// Throws kInvalidArgument for an empty or inconsistent image, kNumeric for not-a-number.
std::vector<std::uint8_t> encode_png(const GrayImage& image);
/// 8-bit RGB PNG. Throws kInvalidArgument as above.
std::vector<std::uint8_t> encode_png(const RgbImage& image);

/// Encodes and writes atomically; throws as encode_png, and kIo as write_file_atomically does.
void write_png(const std::string& path, const GrayImage& image);
/// The same in colour.
void write_png(const std::string& path, const RgbImage& image);

}  // namespace daug
