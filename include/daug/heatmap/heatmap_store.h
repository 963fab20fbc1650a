#pragma once
/// @file
/// The maps of many images in one file that grows image by image, survives a crash, and never hands out a damaged
/// value. No LibTorch.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "daug/core/progress.h"
#include "daug/io/random_access_file.h"

namespace daug {

/// Version of the file that a store is; one of another version is refused (kFormat).
inline constexpr std::uint32_t kHeatmapStoreVersion = 1;

/// How a store keeps its values. With m the largest |value| of a map, a value v comes back within
/// - kFloat16: max(|v| 2^-11, m 2^-39); a scale a map, a power of two, makes the bound hold for maps of any size,
/// - kUint8: (largest - smallest value of the map) / 510 + m 2^-22; a map whose values differ by less than 1e-30 comes
///   back constant,
/// - kFloat32: 0, the same bits.
enum class MapStorage {
  kFloat16,  ///< 2 bytes a value
  kUint8,    ///< 1 byte a value: 256 even steps from the map's smallest value to its largest
  kFloat32,  ///< 4 bytes a value
};

/// What all records of a store have in common; two stores with different layouts never mix.
struct HeatmapLayout {
  std::string fingerprint;  ///< of the model and all settings that made the maps (see Fingerprint); 1 to 4096 bytes
  std::vector<std::string> names;  ///< the K maps of an image, in order: 1 to 1024 different texts of 1 to 256 bytes
  std::int64_t height = 0;         ///< pixels, in [1, 16384]
  std::int64_t width = 0;          ///< pixels, in [1, 16384]
  MapStorage storage = MapStorage::kFloat16;  ///< how values are kept

  /// K * height * width, the values of one image; at most 2^28.
  std::size_t values() const;
  /// Throws kInvalidArgument.
  void validate() const;
};

/// The key of an image: the 64-bit XXH3 hash of its file's bytes, wherever the file lies and whatever it is called.
/// (Any other 64-bit key of the content serves too, such as `checksum64` of pixels, if readers use the same.)
/// Throws kNotFound, kIo.
std::uint64_t heatmap_key(const std::string& image_path);

/// Layout of the store at `path`, whatever its fingerprint. Throws kFormat for another or a damaged file, kNotFound,
/// kIo.
HeatmapLayout read_heatmap_layout(const std::string& path);

namespace detail {
class HeatmapFile;
struct RecordHead;
}  // namespace detail

/// A store opened for reading.
///
/// Any number of readers may be open while one writer appends. A reader sees the records that were complete when it was
/// opened or last refreshed; the beginning of a record behind them, left by a crash or still being written, does not
/// exist for it. Nothing is read without its checksum, and nothing is mapped into memory.
///
/// Const members may run in parallel on one object.
class HeatmapStore {
 public:
  /// Throws kMismatch naming both fingerprints when the store's is not `fingerprint`; kFormat for another file, or when
  /// the head of a record is damaged (`compact_heatmap_store` drops such records); kNotFound, kIo.
  HeatmapStore(const std::string& path, const std::string& fingerprint);
  /// Takes the other's place, which may only be destroyed then.
  HeatmapStore(HeatmapStore&&) noexcept;
  /// Closes the file.
  ~HeatmapStore();

  /// What all records have in common.
  const HeatmapLayout& layout() const;
  /// Number of images.
  std::size_t size() const { return newest_.size(); }
  /// Whether there are maps of an image, damaged or not.
  bool contains(std::uint64_t key) const { return newest_.count(key) != 0; }
  /// Keys of all images in the order of their records in the file.
  std::vector<std::uint64_t> keys() const;

  /// Maps of an image, [K, H, W] row-major; of several records the newest. Throws kNotFound, kIo, and kFormat when the
  /// record is damaged.
  std::vector<float> read(std::uint64_t key) const;

  /// Takes in what writers have added, also through `compact_heatmap_store`, which puts another file in this one's
  /// place. Returns how many images there are now. Throws as the constructor does; what was there before can still be
  /// read.
  std::size_t refresh();

 private:
  friend class HeatmapStoreWriter;
  void index_records();
  detail::RecordHead newest_head(std::uint64_t key) const;

  std::unique_ptr<detail::HeatmapFile> file_;
  std::unordered_map<std::uint64_t, std::uint64_t> newest_;  ///< key -> number of its last record
  std::uint64_t indexed_ = 0;                                ///< records in newest_
};

/// What `HeatmapStoreWriter::merge` did, in images.
struct HeatmapMerge {
  std::size_t added = 0;          ///< new in this store
  std::size_t there_already = 0;  ///< with the same maps
  std::size_t different = 0;      ///< there already with other maps, which were kept
};

/// The one writer of a store. While it lives, `path + ".lock"` (an empty file that stays) is locked; where `path` is a
/// symbolic link, the one beside the file it leads to, so that every such name has the same lock.
class HeatmapStoreWriter {
 public:
  /// Makes a store, or goes on with one whose layout is the same. The beginning of a record that a crash left at its
  /// end is cut off. With `flush`, append returns when the record is on the disk, so that a power cut loses as little
  /// as a crash of the process does.
  ///
  /// Throws kBusy when the store has a writer; kMismatch naming what differs (fingerprint, names, size, storage);
  /// kInvalidArgument for a bad layout; kFormat as HeatmapStore does; kIo.
  HeatmapStoreWriter(const std::string& path, const HeatmapLayout& layout, bool flush = true);

  /// As given to the constructor.
  const HeatmapLayout& layout() const { return store_.layout(); }
  /// Number of images.
  std::size_t size() const { return store_.size(); }
  /// Whether there are maps of an image.
  bool contains(std::uint64_t key) const { return store_.contains(key); }

  /// Adds the maps [K, H, W] of an image; they supersede those it has. May be called from several threads at once,
  /// nothing else beside it. When it throws, the store is as it was and may be used on.
  ///
  /// Throws kMismatch when `count` is not layout().values(); kNumeric for a value that is not finite or larger than
  /// 1e30; kIo with the reason, such as a full disk.
  void append(std::uint64_t key, const float* maps, std::size_t count);
  /// The same from a vector.
  void append(std::uint64_t key, const std::vector<float>& maps) { append(key, maps.data(), maps.size()); }
  /// The same of IEEE halves as their bits (core/half.h), such as `encoder_maps` writes them with `half`; into a store
  /// of kFloat16, from which every value comes back exactly. Where `append` of the same values as floats loses nothing,
  /// the record is the same, byte for byte. (It loses the last bit of values below 2^-13 beside one of 2^15 or more.)
  /// Floats that are rounded to halves first come back within max(|v| 2^-11, 2^-25), up to 65504: from 2^-14 as good as
  /// through `append`, which keeps more digits of smaller ones.
  ///
  /// Throws kMismatch for another storage, and when `count` is not layout().values(); kNumeric naming map and key for
  /// an infinity or NaN; kIo as above.
  void append_halves(std::uint64_t key, const std::uint16_t* maps, std::size_t count);

  /// Adds what stores of the same layout, such as those of several ranks, hold and this one does not, bit for bit. All
  /// are opened before anything is added. Progress counts images of the shards; a stop throws kCancelled between two.
  /// Throws kMismatch naming what differs; kFormat, kNotFound, kIo; what was added by then stays, so the same call goes
  /// on where it stopped.
  HeatmapMerge merge(const std::vector<std::string>& shards, const RunControl& control = {});

 private:
  void append_record(std::uint64_t key, const std::string& body);

  FileLock lock_;
  HeatmapStore store_;
  RandomAccessFile file_;
  bool flush_;
  std::mutex mutex_;
};

/// What a store consists of.
struct HeatmapStoreCheck {
  /// A record that does not fit its checksum.
  struct Damaged {
    std::uint64_t record = 0;  ///< number in the file, from 0
    std::uint64_t offset = 0;  ///< its first byte
    std::string reason;        ///< what the reader says
  };

  std::uint64_t records = 0;     ///< complete ones
  std::uint64_t images = 0;      ///< with maps that can be read
  std::uint64_t superseded = 0;  ///< records with a newer one of the same image
  std::uint64_t torn_bytes = 0;  ///< of a record that was being written
  std::vector<Damaged> damaged;  ///< in the order of the file
};

/// Reads all of a store and checks every record. Progress counts records; a stop throws kCancelled between two. Throws
/// kFormat when it is none or its header is damaged, kNotFound, kIo.
HeatmapStoreCheck verify_heatmap_store(const std::string& path, const RunControl& control = {});

/// Writes a store anew without superseded and damaged records and without a torn end, to a temporary file that then
/// takes its place; when there is nothing to drop, nothing is written. An image whose newest record is damaged is
/// dropped altogether. (A record whose head is damaged does not tell its image: an older record of it would return.)
/// Readers keep the old file until they refresh, and a symbolic link leads to the new one. Returns what was there
/// before. Progress counts records that are checked, then those that are written; a stop throws kCancelled between two.
/// Throws kBusy when the store has a writer, and what `verify_heatmap_store` and `write_file_atomically` throw; then
/// the store is as it was.
HeatmapStoreCheck compact_heatmap_store(const std::string& path, const RunControl& control = {});

}  // namespace daug
