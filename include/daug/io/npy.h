#pragma once
/// @file
/// NumPy's `.npy` format (numpy.lib.format, versions 1.0 to 3.0), reading only: one array, nothing executable.

#include <cstddef>
#include <cstdint>
#include <string>

#include "daug/io/safetensors.h"

namespace daug {

/// Reads an array of little-endian float16, float32 or float64, or of uint8, in C order. Everything the file claims is
/// checked before it is used: the length of the header (cap 64 KiB), its three keys, a shape (at most 32 sizes) without
/// overflow, and that the data are exactly as long as the shape says.
///
/// Throws kFormat for a file that contradicts the format or is larger than `max_bytes`, kUnsupported for other element
/// types (pickled objects among them), big-endian values, Fortran order and later versions, kNotFound, kIo.
Array read_npy(const std::string& path, std::uint64_t max_bytes = std::uint64_t{1} << 30);
/// The same from memory; `name` stands for the path in messages.
Array parse_npy(const void* data, std::size_t size, const std::string& name);

}  // namespace daug
