#pragma once
// The index file: items as they lie in memory, so that opening it costs no more than reading its header, and behind
// them a journal of later changes (journal.h). All numbers little-endian.
//
//     magic      8 bytes  "daugindx"
//     version    u32
//     block      u32      bytes that have a checksum of their own
//     header     u64      length of the header, all up to the first chunk; a multiple of 64
//     items      u64      length of header and chunks; the journal begins there with its commit
//     dimension i64, metric i64, storage i64; fingerprint; number of metadata names u64, those names
//     number of chunks u64; for each chunk: rows u64, length of its metadata u64
//     checksums  u64      of each block of each section, in order: XXH3
//     zeros, and in the last 8 bytes of the header the XXH3 checksum of all before them
//                         (a text is its length u64 and its bytes)
//
// then of each chunk these sections, each filled with zeros to a multiple of 64 (which the checksums cover):
//
//     ids        i64 a row
//     order      u32 a row: rows by ascending id
//     norms      f64 a row
//     vectors    dimension f32 a row
//     codes      blocks of 16 rows as in scan_kernel.h         } not under float32 storage
//     bounds     scale, error, offset: f32 a row of a block    }
//     metadata   number of names u64; for each: name, number of values u64, the values, and u32 a row: which, from 1
//
// No byte stands between these parts, nor between the last and the journal, whose own length says what is left over at
// the end of the file (journal.h).
//
// Nothing but the header is read when a file is opened. A block is checked when something in it is needed first.

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "snapshot.h"

namespace daug::detail {

/// The bytes of an index file and which of them have been checked.
class IndexFile : public std::enable_shared_from_this<IndexFile> {
 public:
  /// `owner` keeps `bytes` alive, which begin on a cache line. Throws kFormat naming `name` unless the header is whole.
  IndexFile(std::string_view bytes, std::shared_ptr<const void> owner, std::string name);

  /// The items, without the journal.
  Snapshot items() const;
  /// What follows the items in `bytes`.
  std::string_view journal() const { return bytes_.substr(length_); }
  std::uint64_t header_check() const { return header_check_; }
  std::uint64_t length() const { return length_; }
  const std::string& name() const { return name_; }

  enum Kind { kIds, kOrder, kNorms, kVectors, kCodes, kBounds, kMetadata, kParts };
  const char* data(std::size_t chunk, Kind part) const { return bytes_.data() + section(chunk, part).offset; }
  /// Throws kFormat when a block that holds some of these bytes of a section is not what was written.
  void check(std::size_t chunk, Kind part, std::size_t first, std::size_t count) const;
  void check(std::size_t chunk, Kind part) const { check(chunk, part, 0, section(chunk, part).length); }
  [[noreturn]] void fail_format(std::size_t chunk, Kind part, const std::string& expected,
                                const std::string& actual) const;

 private:
  struct Section {
    std::size_t offset = 0;
    std::size_t length = 0;
    std::size_t first_block = 0;
  };
  struct ChunkEntry {
    std::size_t rows = 0;
    std::size_t metadata_bytes = 0;
    std::array<Section, kParts> sections = {};
  };
  friend class FileSource;

  const Section& section(std::size_t chunk, Kind part) const { return chunks_[chunk].sections[part]; }

  std::string_view bytes_;
  std::shared_ptr<const void> owner_;
  std::string name_;
  std::uint64_t length_ = 0;
  std::uint64_t header_check_ = 0;
  std::shared_ptr<const IndexSettings> settings_;
  std::set<std::string> fields_;
  std::vector<ChunkEntry> chunks_;
  std::string_view checksums_;                      ///< u64 a block
  mutable std::vector<std::atomic<bool>> checked_;  ///< by block
};

/// The lock of the file that a path leads to: exclusively a writer's, shared by all who save to it. Throws kIo.
std::string lock_path(const std::string& path);

/// Writes a snapshot, atomically. Throws kIo.
void write_index(const std::string& path, const Snapshot& snapshot);

/// How much of a journal is complete.
struct JournalExtent {
  std::uint64_t records = 0;
  std::uint64_t bytes = 0;  ///< of the records, without the commit
};

/// A file with its items and the changes of its journal applied to them.
struct OpenedIndex {
  std::shared_ptr<const IndexFile> file;
  Snapshot snapshot;
  JournalExtent journal;
};

/// Opens a file. The items are mapped, as nobody ever changes them in place; the journal is read, since a writer may
/// cut off its end meanwhile. `recover` as for replay_journal.
OpenedIndex open_index(const std::string& path, bool recover = false);
/// The items of a file; with `options`, those that are kept otherwise are coded anew.
Snapshot open_index(const std::string& path, const IndexOptions* options);
/// The items of a file's bytes, which are copied.
Snapshot parse_index(std::string_view bytes, const std::string& name);

}  // namespace daug::detail
