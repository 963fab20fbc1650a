#pragma once
// .npy files, put together byte by byte.

#include <string>

namespace daug::test {

inline std::string npy_header(const std::string& type, const std::string& shape) {
  return "{'descr': '" + type + "', 'fortran_order': False, 'shape': " + shape + ", }";
}

/// A file with this dictionary as its header, padded as NumPy does: data begin at a multiple of 64.
inline std::string npy(std::string dictionary, const std::string& data, int version = 1) {
  const std::size_t before = version == 1 ? 10 : 12;
  while ((before + dictionary.size() + 1) % 64 != 0) dictionary += ' ';
  dictionary += '\n';
  std::string file = "\x93NUMPY";
  file += static_cast<char>(version);
  file += '\0';
  for (std::size_t i = 8; i < before; ++i) file += static_cast<char>(dictionary.size() >> (8 * (i - 8)) & 255U);
  return file + dictionary + data;
}

}  // namespace daug::test
