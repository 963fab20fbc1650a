#pragma once
/// @file
/// The safetensors format (https://github.com/huggingface/safetensors) without LibTorch: named arrays in a flat file,
/// nothing executable. Everything a file claims is checked before it is used.

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace daug {

/// Element types this reader knows; names as in the file ("F32").
enum class ElementType { kF64, kF32, kF16, kBF16, kI64, kI32, kI16, kI8, kU8, kBool };

std::size_t element_size(ElementType type);
const char* element_name(ElementType type);

/// One named array; `data` is row-major, little-endian, exactly numel * element_size bytes.
struct Array {
  ElementType type = ElementType::kF32;
  std::vector<std::int64_t> shape;
  std::vector<std::uint8_t> data;

  std::int64_t numel() const;
  /// Values widened to double (int64 beyond 2^53 loses digits). Any element type.
  std::vector<double> to_double() const;
  std::vector<float> to_float() const;
  /// Integer and bool types only; throws kMismatch for floating point.
  std::vector<std::int64_t> to_int64() const;

  /// Throws kInvalidArgument unless the shape's product is the number of values.
  static Array from(const std::vector<float>& values, std::vector<std::int64_t> shape);
  static Array from(const std::vector<double>& values, std::vector<std::int64_t> shape);
  static Array from(const std::vector<std::int64_t>& values, std::vector<std::int64_t> shape);
};

/// A whole file: arrays by name and the free-form `__metadata__` strings.
struct SafetensorsFile {
  std::map<std::string, Array> tensors;
  std::map<std::string, std::string> metadata;

  /// Throws kNotFound naming the key and the file's nearest keys.
  const Array& at(const std::string& name) const;
  bool contains(const std::string& name) const { return tensors.count(name) != 0; }
};

/// Reads and checks a file: header length (cap 100 MB) inside the file, JSON, no duplicate keys, known types, shapes
/// without overflow, offsets in range that cover the data exactly without overlap. Throws kFormat naming file and key.
SafetensorsFile read_safetensors(const std::string& path);
SafetensorsFile parse_safetensors(const void* data, std::size_t size, const std::string& name);

/// Writes atomically (see write_file_atomically): keys in lexicographic order, data from an 8-byte boundary, wide
/// elements first so that every array is aligned to its element size. Throws kInvalidArgument when an array's data and
/// shape disagree or a text is not UTF-8, and kIo.
void write_safetensors(const std::string& path, const SafetensorsFile& file);

}  // namespace daug
