#include "daug/heatmap/heatmap_store.h"

#include <algorithm>
#include <filesystem>
#include <set>
#include <utility>

#include "daug/core/error.h"
#include "daug/io/file.h"
#include "daug/io/fingerprint.h"
#include "heatmap_file.h"

namespace daug {

using detail::HeatmapFile;

namespace {

constexpr std::int64_t kLargestSide = 16384;
constexpr std::size_t kMostValues = std::size_t{1} << 28;
constexpr std::size_t kMostNames = 1024, kLongestName = 256, kLongestFingerprint = 4096;

/// Where the lock of a store lies; a bad layout is refused before anything is made.
std::string lock_path(const std::string& path, const HeatmapLayout& layout) {
  layout.validate();
  return followed_path("HeatmapStoreWriter", path) + ".lock";
}

/// The path of a store that is there and has this layout: a new one when there is none.
const std::string& prepare_file(const std::string& path, const HeatmapLayout& layout) {
  std::error_code ignored;  // what cannot be looked at cannot be written either, and that says why
  // Made in one piece under another name, so that neither a reader nor a crash ever sees half a header.
  if (!std::filesystem::exists(path, ignored)) write_file_atomically(path, detail::heatmap_header(layout));
  detail::require_same_layout("HeatmapStoreWriter", path, layout, read_heatmap_layout(path));
  return path;
}

/// The newest record of every image, as far as heads can be read, and whether its maps can be.
struct Contents {
  HeatmapStoreCheck check;
  std::vector<detail::RecordHead> images;  ///< those whose maps can be read, in the order of the file
};

Contents check_records(const HeatmapFile& file, const char* function, const RunControl& control) {
  Contents contents;
  auto& check = contents.check;
  check.records = file.records();
  check.torn_bytes = file.torn_bytes();
  const auto total = static_cast<std::int64_t>(check.records);
  std::unordered_map<std::uint64_t, std::uint64_t> newest;
  std::vector<detail::RecordHead> readable;
  for (std::uint64_t number = 0; number < check.records; ++number) {
    control.stop.throw_if_stopped(function);
    try {
      const auto head = file.head(number);
      newest[head.key] = number;
      (void)file.body(head);
      readable.push_back(head);
    } catch (const Error& error) {
      if (error.code() != ErrorCode::kFormat) throw;
      check.damaged.push_back({number, file.offset(number), error.what()});
    }
    control.report({"check records", static_cast<std::int64_t>(number) + 1, total, "records", {}});
  }
  for (const auto& head : readable)
    if (newest.at(head.key) == head.number) contents.images.push_back(head);
  check.images = contents.images.size();
  check.superseded = readable.size() - contents.images.size();
  return contents;
}

}  // namespace

std::size_t HeatmapLayout::values() const {
  return names.size() * static_cast<std::size_t>(height) * static_cast<std::size_t>(width);
}

void HeatmapLayout::validate() const {
  constexpr const char* kFunction = "HeatmapLayout::validate";
  require(!fingerprint.empty() && fingerprint.size() <= kLongestFingerprint, kFunction, "fingerprint",
          detail::concat("1 to ", kLongestFingerprint, " bytes"), detail::concat(fingerprint.size(), " bytes"));
  require(!names.empty() && names.size() <= kMostNames, kFunction, "names", detail::concat("1 to ", kMostNames),
          names.size());
  std::set<std::string> seen;
  for (const auto& name : names) {
    require(!name.empty() && name.size() <= kLongestName, kFunction, "names",
            detail::concat("1 to ", kLongestName, " bytes each"), "'" + name + "'");
    require(seen.insert(name).second, kFunction, "names", "different names", "'" + name + "' twice");
  }
  require_range(height, 1, kLargestSide, kFunction, "height");
  require_range(width, 1, kLargestSide, kFunction, "width");
  require(values() <= kMostValues, kFunction, "size", detail::concat("at most ", kMostValues, " values an image"),
          values());
  require(storage == MapStorage::kFloat16 || storage == MapStorage::kUint8 || storage == MapStorage::kFloat32,
          kFunction, "storage", "a MapStorage", static_cast<int>(storage));
}

std::uint64_t heatmap_key(const std::string& image_path) {
  const auto bytes = read_file(image_path);
  return checksum64(bytes.data(), bytes.size());
}

HeatmapLayout read_heatmap_layout(const std::string& path) { return HeatmapFile(path).layout(); }

HeatmapStore::HeatmapStore(const std::string& path, const std::string& fingerprint) : file_(new HeatmapFile(path)) {
  if (layout().fingerprint != fingerprint)
    fail(ErrorCode::kMismatch, "HeatmapStore", path, "maps of fingerprint '" + fingerprint + "'",
         "'" + layout().fingerprint + "'");
  index_records();
}

HeatmapStore::HeatmapStore(HeatmapStore&&) noexcept = default;
HeatmapStore::~HeatmapStore() = default;

const HeatmapLayout& HeatmapStore::layout() const { return file_->layout(); }

void HeatmapStore::index_records() {
  for (const auto records = file_->records(); indexed_ < records; ++indexed_)
    newest_[file_->head(indexed_).key] = indexed_;
}

std::vector<std::uint64_t> HeatmapStore::keys() const {
  std::vector<std::pair<std::uint64_t, std::uint64_t>> order;
  for (const auto& [key, number] : newest_) order.emplace_back(number, key);
  std::sort(order.begin(), order.end());
  std::vector<std::uint64_t> keys;
  for (const auto& each : order) keys.push_back(each.second);
  return keys;
}

detail::RecordHead HeatmapStore::newest_head(std::uint64_t key) const {
  const auto found = newest_.find(key);
  if (found == newest_.end())
    fail(ErrorCode::kNotFound, "HeatmapStore::read", file_->file().path(), "maps of an image in the store",
         detail::concat("key ", key));
  const auto head = file_->head(found->second);
  if (head.key != key)  // a writer whose disk was full has taken it back since
    fail(ErrorCode::kFormat, "HeatmapStore::read", file_->file().path(), detail::concat("maps of key ", key),
         detail::concat("those of key ", head.key));
  return head;
}

std::vector<float> HeatmapStore::read(std::uint64_t key) const {
  return detail::decode_maps(layout(), file_->body(newest_head(key)), file_->file().path());
}

std::size_t HeatmapStore::refresh() {
  // The last record may have been taken back since, by a writer whose disk was full, and another be in its place.
  const auto last_is_there = [&] {
    if (indexed_ == 0) return true;
    const auto found = newest_.find(file_->head(indexed_ - 1).key);
    return found != newest_.end() && found->second == indexed_ - 1;
  };
  if (file_->file().is_current() && file_->records() >= indexed_ && last_is_there()) {
    index_records();
    return size();
  }
  HeatmapStore now(file_->file().path(), layout().fingerprint);
  detail::require_same_layout("HeatmapStore::refresh", file_->file().path(), layout(), now.layout());
  std::swap(file_, now.file_);
  std::swap(newest_, now.newest_);
  std::swap(indexed_, now.indexed_);
  return size();
}

HeatmapStoreWriter::HeatmapStoreWriter(const std::string& path, const HeatmapLayout& layout, bool flush)
    : lock_(lock_path(path, layout)),
      store_(prepare_file(path, layout), layout.fingerprint),
      file_(path, RandomAccessFile::Mode::kWrite),
      flush_(flush) {
  if (store_.file_->torn_bytes() > 0) file_.truncate(store_.file_->offset(store_.indexed_));
}

void HeatmapStoreWriter::append(std::uint64_t key, const float* maps, std::size_t count) {
  if (count != layout().values())
    fail(ErrorCode::kMismatch, "HeatmapStoreWriter::append", "maps", detail::concat(layout().values(), " values"),
         count);
  append_record(key, detail::encode_maps(layout(), maps));
}

void HeatmapStoreWriter::append_halves(std::uint64_t key, const std::uint16_t* maps, std::size_t count) {
  constexpr const char* kFunction = "HeatmapStoreWriter::append_halves";
  detail::require_float16(layout(), kFunction);
  if (count != layout().values())
    fail(ErrorCode::kMismatch, kFunction, "maps", detail::concat(layout().values(), " values"), count);
  append_record(key, detail::encode_halves(layout(), key, maps));
}

void HeatmapStoreWriter::append_record(std::uint64_t key, const std::string& body) {
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto number = store_.indexed_;
  const auto offset = store_.file_->offset(number);
  const std::string record = store_.file_->record(key, number, body);
  try {
    file_.write(offset, record.data(), record.size());
    if (flush_) file_.flush();
  } catch (...) {
    try {
      file_.truncate(offset);
    } catch (const Error&) {  // readers pass over a beginning, and the next record is written over it
    }
    throw;
  }
  store_.newest_[key] = number;
  ++store_.indexed_;
}

HeatmapMerge HeatmapStoreWriter::merge(const std::vector<std::string>& shards, const RunControl& control) {
  std::vector<HeatmapStore> sources;
  std::int64_t done = 0, images = 0;
  for (const auto& path : shards) {
    detail::require_same_layout("HeatmapStoreWriter::merge", path, layout(), read_heatmap_layout(path));
    sources.emplace_back(path, layout().fingerprint);
    images += static_cast<std::int64_t>(sources.back().size());
  }
  HeatmapMerge result;
  for (const auto& source : sources)
    for (const auto key : source.keys()) {
      control.stop.throw_if_stopped("HeatmapStoreWriter::merge");
      const auto head = source.newest_head(key);
      if (!contains(key)) {
        append_record(key, source.file_->body(head));
        ++result.added;
      } else if (store_.newest_head(key).body_check == head.body_check) {
        ++result.there_already;
      } else {
        ++result.different;
      }
      control.report({"merge records", ++done, images, "images", {}});
    }
  return result;
}

HeatmapStoreCheck verify_heatmap_store(const std::string& path, const RunControl& control) {
  return check_records(HeatmapFile(path), "verify_heatmap_store", control).check;
}

HeatmapStoreCheck compact_heatmap_store(const std::string& path, const RunControl& control) {
  constexpr const char* kFunction = "compact_heatmap_store";
  const FileLock lock(lock_path(path, read_heatmap_layout(path)));
  const HeatmapFile file(path);
  const auto contents = check_records(file, kFunction, control);
  if (contents.check.records == contents.check.images && contents.check.torn_bytes == 0) return contents.check;
  const auto total = static_cast<std::int64_t>(contents.images.size());
  write_file_atomically(followed_path(kFunction, path), [&](const ByteSink& sink) {
    const std::string header = detail::heatmap_header(file.layout());
    sink(header.data(), header.size());
    std::uint64_t number = 0;
    for (const auto& head : contents.images) {
      control.stop.throw_if_stopped(kFunction);
      const std::string record = file.record(head.key, number++, file.body(head));
      sink(record.data(), record.size());
      control.report({"write records", static_cast<std::int64_t>(number), total, "records", {}});
    }
  });
  return contents.check;
}

}  // namespace daug
