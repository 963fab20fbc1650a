#include "heatmap_file.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "daug/core/error.h"
#include "daug/core/half.h"
#include "daug/io/bytes.h"
#include "daug/io/fingerprint.h"

namespace daug::detail {
namespace {

static_assert(std::endian::native == std::endian::little, "numbers are written as they lie in memory");

constexpr std::string_view kMagic = "daugmaps";
constexpr const char* kOpen = "HeatmapStore";
constexpr std::uint64_t kPrefixBytes = kMagic.size() + 2 * sizeof(std::uint32_t) + sizeof(std::uint64_t);
constexpr std::uint64_t kLargestHeader = std::uint64_t{1} << 20;
constexpr float kLargestValue = 1e30F;
constexpr float kLargestRead = 2e30F;     // coding may round such a value up
constexpr double kSmallestRange = 1e-30;  // below, a step could be too small for a float's full precision

/// What the values of a map are stored with: value = offset + scale * stored.
struct Coding {
  float offset = 0;
  float scale = 1;
};

std::size_t value_bytes(MapStorage storage) {
  return storage == MapStorage::kFloat16 ? 2 : storage == MapStorage::kUint8 ? 1 : sizeof(float);
}

std::size_t body_bytes(const HeatmapLayout& layout) {
  return layout.names.size() * sizeof(Coding) + layout.values() * value_bytes(layout.storage);
}

/// Halves of values that fill the upper half of its exponents, so that the small values of a map keep their digits.
void encode_half(const float* values, std::size_t count, float largest, Coding& coding, char* out) {
  const int exponent = largest > 0 ? std::max(std::ilogb(largest) - 14, -126) : 0;
  coding = {0, std::ldexp(1.0F, exponent)};
  const float inverse = std::ldexp(1.0F, -exponent);
  for (std::size_t i = 0; i < count; ++i) {
    const std::uint16_t half = float_to_half(values[i] * inverse);
    std::memcpy(out + i * sizeof half, &half, sizeof half);
  }
}

/// A half times 2^shift, rounded where that is none.
std::uint16_t shifted(std::uint16_t half, int shift) {
  const int exponent = (half >> 10) & 31;  // 0: zero and subnormal numbers
  if (exponent > 0 && exponent + shift > 0) return static_cast<std::uint16_t>(half + shift * 1024);
  return float_to_half(std::ldexp(half_to_float(half), shift));
}

void encode_byte(const float* values, std::size_t count, float low, float high, Coding& coding, char* out) {
  const double range = static_cast<double>(high) - low;
  coding = {low, range > kSmallestRange ? static_cast<float>(range / 255) : 0};
  const double inverse = coding.scale > 0 ? 1 / static_cast<double>(coding.scale) : 0;
  for (std::size_t i = 0; i < count; ++i) {
    const double steps = std::min((static_cast<double>(values[i]) - low) * inverse + 0.5, 255.0);
    out[i] = static_cast<char>(static_cast<std::uint8_t>(steps));
  }
}

const char* map_storage_name(MapStorage storage) {
  return storage == MapStorage::kFloat16 ? "float16" : storage == MapStorage::kUint8 ? "uint8" : "float32";
}

}  // namespace

void require_float16(const HeatmapLayout& layout, const char* function) {
  if (layout.storage != MapStorage::kFloat16)
    fail(ErrorCode::kMismatch, function, "storage", map_storage_name(MapStorage::kFloat16),
         map_storage_name(layout.storage));
}

std::string heatmap_header(const HeatmapLayout& layout) {
  std::string body;
  put<std::uint64_t>(body, static_cast<std::uint64_t>(layout.height));
  put<std::uint64_t>(body, static_cast<std::uint64_t>(layout.width));
  put<std::uint64_t>(body, layout.names.size());
  put_text(body, layout.fingerprint);
  for (const auto& name : layout.names) put_text(body, name);
  std::string header(kMagic);
  put<std::uint32_t>(header, kHeatmapStoreVersion);
  put<std::uint32_t>(header, static_cast<std::uint32_t>(layout.storage));
  put<std::uint64_t>(header, kPrefixBytes + body.size() + sizeof(std::uint64_t));
  header += body;
  put<std::uint64_t>(header, checksum64(header.data(), header.size()));
  return header;
}

std::string encode_maps(const HeatmapLayout& layout, const float* maps) {
  std::string body(body_bytes(layout), '\0');
  const std::size_t count = layout.values() / layout.names.size();
  char* out = body.data() + layout.names.size() * sizeof(Coding);
  for (std::size_t k = 0; k < layout.names.size(); ++k) {
    const float* values = maps + k * count;
    float low = values[0], high = values[0];
    for (std::size_t i = 0; i < count; ++i) {
      if (!(std::abs(values[i]) <= kLargestValue))
        fail(ErrorCode::kNumeric, "HeatmapStoreWriter::append", "map '" + layout.names[k] + "'",
             detail::concat("finite values of at most ", kLargestValue), values[i]);
      low = std::min(low, values[i]);
      high = std::max(high, values[i]);
    }
    Coding coding;
    if (layout.storage == MapStorage::kFloat16)
      encode_half(values, count, std::max(-low, high), coding, out);
    else if (layout.storage == MapStorage::kUint8)
      encode_byte(values, count, low, high, coding, out);
    else
      std::memcpy(out, values, count * sizeof(float));
    std::memcpy(body.data() + k * sizeof coding, &coding, sizeof coding);
    out += count * value_bytes(layout.storage);
  }
  return body;
}

std::string encode_halves(const HeatmapLayout& layout, std::uint64_t key, const std::uint16_t* maps) {
  constexpr std::uint16_t kMagnitude = 0x7fff, kInfinite = 0x7c00;
  std::string body(body_bytes(layout), '\0');
  const std::size_t count = layout.values() / layout.names.size();
  char* out = body.data() + layout.names.size() * sizeof(Coding);
  for (std::size_t k = 0; k < layout.names.size(); ++k, maps += count) {
    std::uint16_t largest = 0;  // magnitudes rise with their bits
    for (std::size_t i = 0; i < count; ++i) {
      const auto magnitude = static_cast<std::uint16_t>(maps[i] & kMagnitude);
      if (magnitude >= kInfinite)
        fail(ErrorCode::kNumeric, "HeatmapStoreWriter::append_halves",
             concat("map '", layout.names[k], "' of key ", key), "finite values", half_to_float(maps[i]));
      largest = std::max(largest, magnitude);
    }
    // As encode_half, unless a value would lose its last bit.
    int shift = largest > 0 ? 14 - std::ilogb(half_to_float(largest)) : 0;
    const auto is_exact = [&](std::uint16_t half) { return shifted(shifted(half, shift), -shift) == half; };
    if (shift < 0 && !std::all_of(maps, maps + count, is_exact)) shift = 0;
    const Coding coding = {0, std::ldexp(1.0F, -shift)};
    std::memcpy(body.data() + k * sizeof coding, &coding, sizeof coding);
    for (std::size_t i = 0; i < count; ++i, out += sizeof(std::uint16_t)) {
      const std::uint16_t half = shifted(maps[i], shift);
      std::memcpy(out, &half, sizeof half);
    }
  }
  return body;
}

std::vector<float> decode_maps(const HeatmapLayout& layout, const std::string& body, const std::string& path) {
  std::vector<float> maps(layout.values());
  const std::size_t count = maps.size() / layout.names.size();
  const char* in = body.data() + layout.names.size() * sizeof(Coding);
  for (std::size_t k = 0; k < layout.names.size(); ++k) {
    Coding coding;
    std::memcpy(&coding, body.data() + k * sizeof coding, sizeof coding);
    if (!(std::abs(coding.offset) <= kLargestValue && std::abs(coding.scale) <= kLargestValue))
      fail(ErrorCode::kFormat, kOpen, path + ": map '" + layout.names[k] + "'", "finite offset and scale",
           concat(coding.offset, " and ", coding.scale));
    float* values = maps.data() + k * count;
    if (layout.storage == MapStorage::kFloat32) {
      std::memcpy(values, in, count * sizeof(float));
    } else if (layout.storage == MapStorage::kFloat16) {
      for (std::size_t i = 0; i < count; ++i) {
        std::uint16_t half;
        std::memcpy(&half, in + i * sizeof half, sizeof half);
        values[i] = half_to_float(half) * coding.scale;
      }
    } else {
      for (std::size_t i = 0; i < count; ++i) {
        const double step = static_cast<std::uint8_t>(in[i]);
        values[i] = static_cast<float>(coding.offset + step * coding.scale);
      }
    }
    if (!std::all_of(values, values + count, [](float value) { return std::abs(value) <= kLargestRead; }))
      fail(ErrorCode::kFormat, kOpen, path + ": map '" + layout.names[k] + "'", "finite values", "others");
    in += count * value_bytes(layout.storage);
  }
  return maps;
}

void require_same_layout(const char* function, const std::string& path, const HeatmapLayout& expected,
                         const HeatmapLayout& actual) {
  const auto differ = [&](const char* what, const std::string& wanted, const std::string& found) {
    if (wanted != found) fail(ErrorCode::kMismatch, function, path + ": " + what, wanted, found);
  };
  const auto joined = [](const std::vector<std::string>& names) {
    std::string text = concat(names.size(), " maps");
    for (const auto& name : names) text += concat(" '", name, "'");
    return text;
  };
  differ("fingerprint", "'" + expected.fingerprint + "'", "'" + actual.fingerprint + "'");
  differ("names", joined(expected.names), joined(actual.names));
  differ("size", concat(expected.height, "x", expected.width), concat(actual.height, "x", actual.width));
  differ("storage", map_storage_name(expected.storage), map_storage_name(actual.storage));
}

HeatmapFile::HeatmapFile(const std::string& path) : file_(path, RandomAccessFile::Mode::kRead) {
  const auto take = [&](std::uint64_t bytes) {
    std::string text(static_cast<std::size_t>(std::min(bytes, file_.size())), '\0');
    file_.read(0, text.data(), text.size());
    return text;
  };
  const std::string prefix = take(kPrefixBytes);
  ByteReader start(prefix, kOpen, path, "header");
  if (start.take(kMagic.size()) != kMagic) start.fail_format("a heatmap store (magic 'daugmaps')", "another file");
  const auto version = start.number<std::uint32_t>();
  if (version != kHeatmapStoreVersion) start.fail_format(concat("version ", kHeatmapStoreVersion), version);
  const auto storage = start.number<std::uint32_t>();
  header_bytes_ = start.number<std::uint64_t>();
  if (header_bytes_ > kLargestHeader || header_bytes_ < kPrefixBytes + sizeof header_check_)
    start.fail_format(concat("a header of at most ", kLargestHeader, " bytes"), header_bytes_);

  const std::string bytes = take(header_bytes_);
  ByteReader header(bytes, kOpen, path, "header");
  const auto checked = header.take(header_bytes_ - sizeof header_check_);
  header_check_ = header.number<std::uint64_t>();
  if (checksum64(checked.data(), checked.size()) != header_check_)
    header.fail_format("contents that fit their checksum", "other contents");

  // The checksum fits; what follows guards against files that no writer made.
  ByteReader fields(checked.substr(kPrefixBytes), kOpen, path, "header");
  if (storage > static_cast<std::uint32_t>(MapStorage::kFloat32)) fields.fail_format("storage 0 to 2", storage);
  layout_.storage = static_cast<MapStorage>(storage);
  layout_.height = fields.number<std::int64_t>();
  layout_.width = fields.number<std::int64_t>();
  const auto names = fields.number<std::uint64_t>();
  layout_.fingerprint = fields.text();
  while (layout_.names.size() < names) layout_.names.push_back(fields.text());
  fields.expect_end();
  try {
    layout_.validate();
  } catch (const Error& error) {
    fields.fail_format("a valid layout", error.what());
  }
  record_bytes_ = sizeof(RecordHead) + body_bytes(layout_);
}

std::uint64_t HeatmapFile::head_check(const RecordHead& head) const {
  const std::uint64_t fields[] = {header_check_, head.key, head.number, head.length, head.body_check};
  return checksum64(fields, sizeof fields);
}

RecordHead HeatmapFile::head(std::uint64_t number) const {
  RecordHead head;
  file_.read(offset(number), &head, sizeof head);
  if (head.head_check != head_check(head) || head.number != number || head.length != record_bytes_)
    fail_record(number, "a head that fits its checksum and place");
  return head;
}

std::string HeatmapFile::body(const RecordHead& head) const {
  std::string body(static_cast<std::size_t>(record_bytes_ - sizeof head), '\0');
  file_.read(offset(head.number) + sizeof head, body.data(), body.size());
  if (checksum64(body.data(), body.size()) != head.body_check) fail_record(head.number, "maps that fit their checksum");
  return body;
}

std::string HeatmapFile::record(std::uint64_t key, std::uint64_t number, const std::string& body) const {
  RecordHead head{key, number, record_bytes_, checksum64(body.data(), body.size()), 0};
  head.head_check = head_check(head);
  std::string bytes;
  bytes.reserve(sizeof head + body.size());
  put(bytes, head);
  return bytes += body;
}

void HeatmapFile::fail_record(std::uint64_t number, const char* expected) const {
  fail(ErrorCode::kFormat, kOpen, concat(file_.path(), ": record ", number, " at byte ", offset(number)), expected,
       "others (compact_heatmap_store drops damaged records)");
}

}  // namespace daug::detail
