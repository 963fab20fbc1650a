#pragma once
// The store's file. All numbers little-endian.
//
//     magic      8 bytes  "daugmaps"
//     version    u32
//     storage    u32      a MapStorage
//     length     u64      of this header
//     height, width, number of names: u64; fingerprint; names     (a text is its length u64 and its bytes)
//     checksum   u64      XXH3 of the header up to here
//
// then records, all of the same length:
//
//     key        u64      of the image
//     number     u64      of the record, from 0
//     length     u64      of the record
//     body check u64      XXH3 of the body
//     head check u64      XXH3 of the header's checksum and the four numbers above
//     body       for each map offset f32, scale f32; then the values of all maps: offset + scale * value
//                       (float32 values as they are: offset 0, scale 1)
//
// The number and the header's checksum in it tie a record to its place: one that was moved, or came from another file,
// is noticed. Equal lengths keep the records behind a damaged one in reach.

#include <algorithm>
#include <string>

#include "daug/heatmap/heatmap_store.h"
#include "daug/io/random_access_file.h"

namespace daug::detail {

/// The fixed beginning of a record, as it lies in the file.
struct RecordHead {
  std::uint64_t key = 0;
  std::uint64_t number = 0;
  std::uint64_t length = 0;
  std::uint64_t body_check = 0;
  std::uint64_t head_check = 0;
};

/// Throws kMismatch naming `function` unless a store keeps halves.
void require_float16(const HeatmapLayout& layout, const char* function);

/// Bytes of a new store without records.
std::string heatmap_header(const HeatmapLayout& layout);

/// Body of a record, and back. Throw kNumeric for values that are refused, kFormat naming `path` for a body no writer
/// made.
std::string encode_maps(const HeatmapLayout& layout, const float* maps);
std::string encode_halves(const HeatmapLayout& layout, std::uint64_t key, const std::uint16_t* maps);
std::vector<float> decode_maps(const HeatmapLayout& layout, const std::string& body, const std::string& path);

/// Throws kMismatch naming the first thing in which two layouts differ.
void require_same_layout(const char* function, const std::string& path, const HeatmapLayout& expected,
                         const HeatmapLayout& actual);

/// An open store: its header, and its records by number.
class HeatmapFile {
 public:
  explicit HeatmapFile(const std::string& path);

  const HeatmapLayout& layout() const { return layout_; }
  const RandomAccessFile& file() const { return file_; }
  /// Complete records it has now, and the bytes behind them.
  std::uint64_t records() const { return bytes_behind_header() / record_bytes_; }
  std::uint64_t torn_bytes() const { return bytes_behind_header() % record_bytes_; }
  std::uint64_t offset(std::uint64_t number) const { return header_bytes_ + number * record_bytes_; }

  /// Both throw kFormat when what is there does not fit its checksum.
  RecordHead head(std::uint64_t number) const;
  std::string body(const RecordHead& head) const;

  /// All bytes of a record.
  std::string record(std::uint64_t key, std::uint64_t number, const std::string& body) const;

 private:
  std::uint64_t bytes_behind_header() const { return std::max(file_.size(), header_bytes_) - header_bytes_; }
  std::uint64_t head_check(const RecordHead& head) const;
  [[noreturn]] void fail_record(std::uint64_t number, const char* expected) const;

  RandomAccessFile file_;
  HeatmapLayout layout_;
  std::uint64_t header_bytes_ = 0;
  std::uint64_t header_check_ = 0;
  std::uint64_t record_bytes_ = 0;
};

}  // namespace daug::detail
