#include "daug/io/safetensors.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <tuple>
#include <utility>

#include "daug/core/error.h"
#include "daug/core/half.h"
#include "daug/io/file.h"
#include "daug/io/random_access_file.h"

namespace daug {
namespace {

using nlohmann::json;

constexpr std::uint64_t kLengthBytes = 8;
constexpr std::uint64_t kLargestHeader = 100'000'000;
constexpr std::size_t kLongestList = 64;  // the most dimensions that LibTorch's tensors have
constexpr char kMetadataKey[] = "__metadata__";

struct ElementInfo {
  ElementType type;
  const char* name;
  std::size_t size;
};

constexpr std::array<ElementInfo, 10> kElements = {{{ElementType::kF64, "F64", 8},
                                                    {ElementType::kF32, "F32", 4},
                                                    {ElementType::kF16, "F16", 2},
                                                    {ElementType::kBF16, "BF16", 2},
                                                    {ElementType::kI64, "I64", 8},
                                                    {ElementType::kI32, "I32", 4},
                                                    {ElementType::kI16, "I16", 2},
                                                    {ElementType::kI8, "I8", 1},
                                                    {ElementType::kU8, "U8", 1},
                                                    {ElementType::kBool, "BOOL", 1}}};

const ElementInfo& info(ElementType type) {
  for (const auto& element : kElements)
    if (element.type == type) return element;
  fail(ErrorCode::kInvalidArgument, "element_size", "type", "an ElementType", static_cast<int>(type));
}

/// Product of the sizes, or nothing when one is negative or the product of those that are not 0 leaves int64: an array
/// without values has strides too.
std::optional<std::int64_t> checked_product(const std::vector<std::int64_t>& shape) {
  std::int64_t product = 1;
  bool empty = false;
  for (const std::int64_t size : shape) {
    if (size < 0 || __builtin_mul_overflow(product, std::max<std::int64_t>(size, 1), &product)) return std::nullopt;
    empty = empty || size == 0;
  }
  return empty ? 0 : product;
}

std::string shape_text(const std::vector<std::int64_t>& shape) {
  std::string text;
  for (const std::int64_t size : shape) text += (text.empty() ? "" : ", ") + std::to_string(size);
  return "[" + text + "]";
}

float bfloat_to_float(std::uint16_t bits) { return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16); }

/// Number of elements, after checking that `data` holds exactly as many as `shape` says.
std::size_t checked_numel(const Array& array, const char* function) {
  const auto count = static_cast<std::size_t>(array.numel());
  const std::size_t size = element_size(array.type);
  if (array.data.size() % size != 0 || array.data.size() / size != count)
    fail(ErrorCode::kInvalidArgument, function, "data",
         detail::concat(count, " elements of ", element_name(array.type)), detail::concat(array.data.size(), " bytes"));
  return count;
}

template <class Stored, class Out, class Convert>
std::vector<Out> convert_elements(const Array& array, const char* function, Convert convert) {
  std::vector<Out> out(checked_numel(array, function));
  const std::uint8_t* next = array.data.data();
  for (auto& value : out) {
    Stored stored;
    std::memcpy(&stored, next, sizeof stored);
    next += sizeof stored;
    value = convert(stored);
  }
  return out;
}

template <class Out>
std::vector<Out> to_number(const Array& array, const char* function) {
  const auto cast = [](auto value) { return static_cast<Out>(value); };
  switch (array.type) {
    case ElementType::kF64:
      return convert_elements<double, Out>(array, function, cast);
    case ElementType::kF32:
      return convert_elements<float, Out>(array, function, cast);
    case ElementType::kF16:
      return convert_elements<std::uint16_t, Out>(
          array, function, [](std::uint16_t bits) { return static_cast<Out>(half_to_float(bits)); });
    case ElementType::kBF16:
      return convert_elements<std::uint16_t, Out>(
          array, function, [](std::uint16_t bits) { return static_cast<Out>(bfloat_to_float(bits)); });
    case ElementType::kI64:
      return convert_elements<std::int64_t, Out>(array, function, cast);
    case ElementType::kI32:
      return convert_elements<std::int32_t, Out>(array, function, cast);
    case ElementType::kI16:
      return convert_elements<std::int16_t, Out>(array, function, cast);
    case ElementType::kI8:
      return convert_elements<std::int8_t, Out>(array, function, cast);
    case ElementType::kU8:
      return convert_elements<std::uint8_t, Out>(array, function, cast);
    case ElementType::kBool:
      return convert_elements<std::uint8_t, Out>(array, function,
                                                 [](std::uint8_t value) { return static_cast<Out>(value != 0); });
  }
  (void)info(array.type);  // throws: not an ElementType
  return {};
}

template <class T>
Array make_array(ElementType type, const std::vector<T>& values, std::vector<std::int64_t> shape) {
  Array array;
  array.type = type;
  array.shape = std::move(shape);
  array.data.resize(values.size() * sizeof(T));
  if (!values.empty()) std::memcpy(array.data.data(), values.data(), array.data.size());
  checked_numel(array, "Array::from");
  return array;
}

/// Checks what a file's header claims against the bytes that are there.
class SafetensorsParser {
 public:
  /// Where an array's elements are, counted from the end of the header.
  struct Extent {
    std::uint64_t begin;
    std::uint64_t end;
    std::string key;
  };

  /// `size`: of the whole file.
  SafetensorsParser(std::uint64_t size, const std::string& name) : size_(size), name_(name) {}

  /// The header's length, as the first kLengthBytes say; they are read only where the file has as many.
  std::uint64_t header_size(const std::uint8_t* start) {
    if (size_ < kLengthBytes) fail_format("", "a header length of 8 bytes", detail::concat(size_, " bytes"));
    std::uint64_t length = 0;
    for (std::size_t i = 0; i < kLengthBytes; ++i) length |= static_cast<std::uint64_t>(start[i]) << (8 * i);
    if (length > kLargestHeader) fail_format("header", detail::concat("at most ", kLargestHeader, " bytes"), length);
    if (length > size_ - kLengthBytes)
      fail_format("header", detail::concat("at most the file's remaining ", size_ - kLengthBytes, " bytes"), length);
    area_size_ = size_ - kLengthBytes - length;
    return length;
  }

  /// All that a header of that length says, without elements.
  SafetensorsFile parse(const char* text, std::uint64_t length) {
    SafetensorsFile file;
    read_header(text, length, file);
    check_cover();
    return file;
  }

  /// Of every array that was parsed: no two have a byte in common.
  const std::vector<Extent>& extents() const { return extents_; }

 private:
  /// Of a text that a file may make as long as its header.
  static std::string beginning(const std::string& text) {
    constexpr std::size_t kMost = 200;
    return text.size() > kMost ? text.substr(0, kMost) + "..." : text;
  }

  template <class Actual>
  [[noreturn]] void fail_format(const std::string& where, const std::string& expected, const Actual& actual) const {
    fail(ErrorCode::kFormat, "read_safetensors", name_ + (where.empty() ? "" : ": " + beginning(where)), expected,
         beginning(detail::concat(actual)));
  }

  /// Entries are read one at a time and not kept: as JSON, a header takes many times its length.
  void read_header(const char* text, std::uint64_t length, SafetensorsFile& file) {
    if (length == 0 || text[0] != '{') fail_format("header", "a JSON object", "something else");

    using Event = json::parse_event_t;
    std::string entry;
    bool is_metadata = false, has_metadata = false;
    auto note = file.metadata.end();
    std::array<std::set<std::string>, 2> fields;  // of the entry, and of an object in it
    std::size_t listed = 0;                       // values of the list or object in the entry
    // JSON lets a key occur twice and parsers keep one of them; here that is an attack or a mistake.
    const auto read_key = [&](int depth, const std::string& key) {
      bool is_new = true;
      if (depth == 1) {
        entry = key;
        is_metadata = key == kMetadataKey;
        is_new = is_metadata ? !std::exchange(has_metadata, true) : file.tensors.try_emplace(key).second;
        fields[0].clear();
      } else if (is_metadata) {
        std::tie(note, is_new) = file.metadata.try_emplace(key);
      } else {
        auto& known = fields[depth == 2 ? 0U : 1U];
        is_new = known.insert(key).second;
        if (known.size() > kLongestList)
          fail_format("key '" + entry + "'", detail::concat("at most ", kLongestList, " fields"), "more");
        if (depth == 2) fields[1].clear(), listed = 0;
      }
      if (!is_new) fail_format("key '" + key + "'", "one entry", "two");
    };
    // Says whether `parsed` is kept as a part of what is around it. A key reports the depth of its object plus one.
    const auto take = [&](int depth, Event event, json& parsed) {
      const bool opens = event == Event::object_start || event == Event::array_start;
      if (opens && depth == kDeepest) fail_format("header", "two levels of nesting", "more");
      if (event == Event::key) {
        read_key(depth, parsed.get_ref<const std::string&>());
        return !(is_metadata && depth == 2);
      }
      const bool begins = opens || event == Event::value;
      if (depth == 1 && begins && event != Event::object_start) {
        if (is_metadata) fail_format(kMetadataKey, "an object of strings", "something else");
        fail_format("key '" + entry + "'", "a field 'dtype'", "none");
      }
      if (depth == 2 && begins && is_metadata) {
        if (opens || !parsed.is_string())
          fail_format(detail::concat(kMetadataKey, ".", note->first), "a string", "something else");
        note->second = std::move(parsed.get_ref<std::string&>());
      }
      // Each number of a list takes many times its digits in memory: long lists end before they are read.
      if (depth == kDeepest && event == Event::value && ++listed > kLongestList)
        fail_format("key '" + entry + "'", detail::concat("lists of at most ", kLongestList, " numbers"), "more");
      if (depth != 1 || event != Event::object_end) return true;
      if (!is_metadata) extents_.push_back(read_entry(entry, parsed, file.tensors.at(entry)));
      return false;
    };
    try {
      const json rest = json::parse(text, text + length, take);  // nothing: entries were read on the way
    } catch (const json::exception& error) {
      fail_format("header", "valid JSON", error.what());
    }
  }

  /// Fills type and shape of `array`; returns the bytes it claims.
  Extent read_entry(const std::string& key, const json& entry, Array& array) const {
    const std::string where = "key '" + key + "'";
    const auto field = [&](const char* field_name) -> const json& {
      if (!entry.contains(field_name)) fail_format(where, detail::concat("a field '", field_name, "'"), "none");
      return entry.at(field_name);
    };
    const auto unsigned_number = [&](const json& value, const char* what) {
      if (!value.is_number_unsigned() || value.get<std::uint64_t>() > std::numeric_limits<std::int64_t>::max())
        fail_format(where, detail::concat(what, " of non-negative integers below 2^63"), value.dump());
      return value.get<std::int64_t>();
    };

    const json& dtype = field("dtype");
    const auto element = std::find_if(kElements.begin(), kElements.end(), [&](const ElementInfo& each) {
      return dtype.is_string() && dtype.get_ref<const std::string&>() == each.name;
    });
    if (element == kElements.end()) {
      std::string known;
      for (const auto& each : kElements) known += (known.empty() ? "" : ", ") + std::string(each.name);
      fail_format(where, "an element type among " + known, dtype.dump());
    }
    array.type = element->type;

    const json& shape = field("shape");
    if (!shape.is_array()) fail_format(where, "a shape that is a list", shape.type_name());
    for (const auto& size : shape) array.shape.push_back(unsigned_number(size, "a shape"));
    const auto count = checked_product(array.shape);
    std::int64_t bytes = 0;
    if (!count || __builtin_mul_overflow(*count, static_cast<std::int64_t>(element->size), &bytes))
      fail_format(where, "a shape of fewer than 2^63 bytes", shape_text(array.shape));

    const json& offsets = field("data_offsets");
    if (!offsets.is_array() || offsets.size() != 2) fail_format(where, "two data_offsets", offsets.dump());
    const auto begin = static_cast<std::uint64_t>(unsigned_number(offsets[0], "data_offsets"));
    const auto end = static_cast<std::uint64_t>(unsigned_number(offsets[1], "data_offsets"));
    if (begin > end || end > area_size_)
      fail_format(where, detail::concat("data_offsets within the ", area_size_, " bytes of data"), offsets.dump());
    if (end - begin != static_cast<std::uint64_t>(bytes))
      fail_format(where, detail::concat(bytes, " bytes for ", element->name, " ", shape_text(array.shape)),
                  detail::concat(end - begin, " bytes"));
    return {begin, end, key};
  }

  /// Sorted by position, every tensor must start where the one before it ended, and the last end with the file.
  void check_cover() {
    std::sort(extents_.begin(), extents_.end(), [](const Extent& a, const Extent& b) {
      return std::tie(a.begin, a.end, a.key) < std::tie(b.begin, b.end, b.key);
    });
    std::uint64_t covered = 0;
    for (const auto& extent : extents_) {
      if (extent.begin != covered)
        fail_format("key '" + extent.key + "'", detail::concat("data from byte ", covered, " (no gap, no overlap)"),
                    detail::concat("byte ", extent.begin));
      covered = extent.end;
    }
    if (covered != area_size_)
      fail_format("data", detail::concat(covered, " bytes, as the header says"), detail::concat(area_size_, " bytes"));
  }

  static constexpr int kDeepest = 3;  // file object, entry, list, number

  std::uint64_t size_;
  const std::string& name_;
  std::uint64_t area_size_ = 0;
  std::vector<Extent> extents_;
};

/// Levenshtein distance, for "did you mean".
std::size_t edit_distance(const std::string& a, const std::string& b) {
  std::vector<std::size_t> row(b.size() + 1);
  for (std::size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (std::size_t i = 1; i <= a.size(); ++i) {
    std::size_t diagonal = std::exchange(row[0], i);
    for (std::size_t j = 1; j <= b.size(); ++j)
      diagonal = std::exchange(row[j], std::min({row[j] + 1, row[j - 1] + 1, diagonal + (a[i - 1] != b[j - 1])}));
  }
  return row.back();
}

}  // namespace

std::size_t element_size(ElementType type) { return info(type).size; }
const char* element_name(ElementType type) { return info(type).name; }
bool is_floating_point(ElementType type) {
  return type == ElementType::kF64 || type == ElementType::kF32 || type == ElementType::kF16 ||
         type == ElementType::kBF16;
}

std::int64_t Array::numel() const {
  const auto product = checked_product(shape);
  require(product.has_value(), "Array::numel", "shape", "non-negative sizes with a product below 2^63",
          shape_text(shape));
  return *product;
}

std::vector<double> Array::to_double() const { return to_number<double>(*this, "Array::to_double"); }
std::vector<float> Array::to_float() const { return to_number<float>(*this, "Array::to_float"); }

std::vector<std::int64_t> Array::to_int64() const {
  if (is_floating_point(type))
    fail(ErrorCode::kMismatch, "Array::to_int64", "type", "an integer or bool type", element_name(type));
  return to_number<std::int64_t>(*this, "Array::to_int64");
}

Array Array::from(const std::vector<float>& values, std::vector<std::int64_t> shape) {
  return make_array(ElementType::kF32, values, std::move(shape));
}
Array Array::from(const std::vector<double>& values, std::vector<std::int64_t> shape) {
  return make_array(ElementType::kF64, values, std::move(shape));
}
Array Array::from(const std::vector<std::int64_t>& values, std::vector<std::int64_t> shape) {
  return make_array(ElementType::kI64, values, std::move(shape));
}

const Array& SafetensorsFile::at(const std::string& name) const {
  const auto found = tensors.find(name);
  if (found != tensors.end()) return found->second;
  std::vector<std::pair<std::size_t, std::string>> nearest;
  for (const auto& [key, array] : tensors) nearest.emplace_back(edit_distance(name, key), key);
  std::sort(nearest.begin(), nearest.end());
  std::string keys;
  for (std::size_t i = 0; i < std::min<std::size_t>(3, nearest.size()); ++i)
    keys += (i ? ", '" : "nearest keys '") + nearest[i].second + "'";
  fail(ErrorCode::kNotFound, "SafetensorsFile::at", "name", "a tensor '" + name + "'",
       keys.empty() ? "a file without tensors" : keys);
}

SafetensorsFile parse_safetensors(const void* data, std::size_t size, const std::string& name) {
  const auto* bytes = static_cast<const std::uint8_t*>(data);
  SafetensorsParser parser(size, name);
  const std::uint64_t length = parser.header_size(bytes);
  const std::uint8_t* text = bytes + kLengthBytes;
  SafetensorsFile file = parser.parse(reinterpret_cast<const char*>(text), length);
  const std::uint8_t* area = text + length;
  for (const auto& extent : parser.extents())
    file.tensors[extent.key].data.assign(area + extent.begin, area + extent.end);
  return file;
}

SafetensorsFile read_safetensors_header(const std::string& path) {
  const RandomAccessFile file(path, RandomAccessFile::Mode::kRead);
  const std::uint64_t size = file.size();
  SafetensorsParser parser(size, path);
  std::array<std::uint8_t, kLengthBytes> start{};
  file.read(0, start.data(), std::min<std::uint64_t>(size, start.size()));
  std::string text(parser.header_size(start.data()), ' ');
  file.read(kLengthBytes, text.data(), text.size());
  return parser.parse(text.data(), text.size());
}

SafetensorsFile read_safetensors(const std::string& path) {
  const auto bytes = read_file(path);
  return parse_safetensors(bytes.data(), bytes.size(), path);
}

void write_safetensors(const std::string& path, const SafetensorsFile& file) {
  // Wide elements first (as the reference writer does): then every array is aligned to its own element size.
  std::vector<std::pair<std::string, const Array*>> order;
  for (const auto& [key, array] : file.tensors) {
    require(key != kMetadataKey, "write_safetensors", "tensors", "a key other than __metadata__", key);
    checked_numel(array, ("write_safetensors: " + key).c_str());
    require(array.shape.size() <= kLongestList, "write_safetensors", key.c_str(),
            detail::concat("at most ", kLongestList, " sizes"), array.shape.size());
    order.emplace_back(key, &array);
  }
  std::stable_sort(order.begin(), order.end(), [](const auto& a, const auto& b) {
    return element_size(a.second->type) > element_size(b.second->type);
  });

  json header = json::object();
  if (!file.metadata.empty()) header[kMetadataKey] = file.metadata;
  std::uint64_t offset = 0;
  for (const auto& [key, array] : order) {
    const std::uint64_t end = offset + array->data.size();
    header[key] = {{"dtype", element_name(array->type)}, {"shape", array->shape}, {"data_offsets", {offset, end}}};
    offset = end;
  }
  std::string text;
  try {
    text = header.dump();
  } catch (const json::exception& error) {
    fail(ErrorCode::kInvalidArgument, "write_safetensors", path, "keys and metadata in UTF-8", error.what());
  }
  text.resize((text.size() + 7) / 8 * 8, ' ');
  require(text.size() <= kLargestHeader, "write_safetensors", "tensors", "a header of at most 100 MB", text.size());
  write_file_atomically(path, [&](const ByteSink& sink) {
    std::uint8_t length[kLengthBytes];
    for (std::size_t i = 0; i < kLengthBytes; ++i) length[i] = static_cast<std::uint8_t>(text.size() >> (8 * i));
    sink(length, sizeof length);
    sink(text.data(), text.size());
    for (const auto& [key, array] : order) sink(array->data.data(), array->data.size());
  });
}

}  // namespace daug
