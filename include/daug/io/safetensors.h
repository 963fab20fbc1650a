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
enum class ElementType {
  kF64,   ///< IEEE 754 binary64, "F64"
  kF32,   ///< IEEE 754 binary32, "F32"
  kF16,   ///< IEEE 754 binary16, "F16"
  kBF16,  ///< bfloat16: the upper half of a binary32, "BF16"
  kI64,   ///< signed, 64 bits, "I64"
  kI32,   ///< signed, 32 bits, "I32"
  kI16,   ///< signed, 16 bits, "I16"
  kI8,    ///< signed, 8 bits, "I8"
  kU8,    ///< unsigned, 8 bits, "U8"
  kBool,  ///< a byte, 0 is false, "BOOL"
};

/// Bytes of one element.
std::size_t element_size(ElementType type);
/// Name in files, such as "F32".
const char* element_name(ElementType type);
/// Whether it is one of the four floating point types, not an integer or bool.
bool is_floating_point(ElementType type);

/// One named array; `data` is row-major, little-endian, exactly numel * element_size bytes.
struct Array {
  ElementType type = ElementType::kF32;  ///< of every element
  std::vector<std::int64_t> shape;       ///< sizes >= 0; empty: one number
  std::vector<std::uint8_t> data;        ///< the elements' bytes

  /// Number of elements. Throws kInvalidArgument for a negative size or a product beyond int64.
  std::int64_t numel() const;
  /// Values widened to double (int64 beyond 2^53 loses digits). Any element type. Throws kInvalidArgument when `data`
  /// and `shape` disagree.
  std::vector<double> to_double() const;
  /// The same rounded to float.
  std::vector<float> to_float() const;
  /// Integer and bool types only; throws kMismatch for floating point, and as to_double.
  std::vector<std::int64_t> to_int64() const;

  /// A kF32 array of these values. Throws kInvalidArgument unless the shape's product is the number of values.
  static Array from(const std::vector<float>& values, std::vector<std::int64_t> shape);
  /// The same as kF64.
  static Array from(const std::vector<double>& values, std::vector<std::int64_t> shape);
  /// The same as kI64.
  static Array from(const std::vector<std::int64_t>& values, std::vector<std::int64_t> shape);
};

/// A whole file: arrays by name and the free-form `__metadata__` strings.
struct SafetensorsFile {
  std::map<std::string, Array> tensors;         ///< by name, which is UTF-8
  std::map<std::string, std::string> metadata;  ///< free-form, UTF-8

  /// Throws kNotFound naming the key and the file's nearest keys.
  const Array& at(const std::string& name) const;
  /// Whether there is an array of this name.
  bool contains(const std::string& name) const { return tensors.count(name) != 0; }
};

/// Reads and checks a file: header length (cap 100 MB) inside the file, JSON, no duplicate keys, known types, shapes of
/// at most 64 sizes without overflow, offsets in range that cover the data exactly without overlap. Other fields of an
/// array, 61 at most, are left alone. A header is refused at the first entry that is wrong; names, shapes and
/// metadata are all that is kept of it. Throws kFormat naming file and key. Also kNotFound and kIo.
SafetensorsFile read_safetensors(const std::string& path);
/// The same from memory; `name` stands for the path in messages.
SafetensorsFile parse_safetensors(const void* data, std::size_t size, const std::string& name);
/// What read_safetensors says of a file of any size, without its elements: the `data` of every array is empty. The
/// checks are the same; of the elements they ask that as many bytes are there as the header says, so that a file cut
/// short is refused, and nothing of what they hold, as the format has no checksum. Throws as read_safetensors.
SafetensorsFile read_safetensors_header(const std::string& path);

/// Writes atomically (see write_file_atomically): keys in lexicographic order, data from an 8-byte boundary, wide
/// elements first so that every array is aligned to its element size. Throws kInvalidArgument when an array's data and
/// shape disagree, for one of more than 64 sizes, when a text is not UTF-8, and kIo.
void write_safetensors(const std::string& path, const SafetensorsFile& file);

}  // namespace daug
