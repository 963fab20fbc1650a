#include "daug/index/index_writer.h"

#include <filesystem>
#include <system_error>
#include <utility>

#include "changes.h"
#include "daug/core/error.h"
#include "index_state.h"
#include "journal.h"

namespace daug {

using detail::ChangeKind;

/// Where records go.
class IndexWriter::Journal {
 public:
  Journal(const std::string& path, const detail::IndexFile& items, const detail::JournalExtent& extent, bool flush)
      : file_(path, RandomAccessFile::Mode::kWrite),
        header_check_(items.header_check()),
        begin_(items.length()),
        extent_(extent),
        flush_(flush) {
    if (file_.size() > end()) file_.truncate(end());
  }

  const detail::JournalExtent& extent() const { return extent_; }

  void append(const char* function, ChangeKind kind, const std::vector<std::int64_t>& ids, const RowMatrixRef& vectors,
              const std::vector<Metadata>& metadata) {
    if (torn_)
      fail(ErrorCode::kIo, function, file_.path(), "a file in order", "one with part of a record; open it again");
    if (!file_.is_current())
      fail(ErrorCode::kMismatch, function, file_.path(), "the file that was opened", "another in its place");
    const auto record = detail::journal_record(header_check_, extent_.records, kind, ids, vectors, metadata);
    try {
      file_.write(end(), record.data(), record.size());
      if (flush_) file_.flush();
    } catch (...) {
      torn_ = true;
      file_.truncate(end());
      torn_ = false;
      throw;
    }
    extent_.bytes += record.size();
    ++extent_.records;
  }

 private:
  std::uint64_t end() const { return begin_ + extent_.bytes; }

  RandomAccessFile file_;
  std::uint64_t header_check_;
  std::uint64_t begin_;
  detail::JournalExtent extent_;
  bool flush_;
  bool torn_ = false;
};

namespace {

/// The file that a path leads to: whoever comes by a symbolic link must meet the same lock, and `compact` must not put
/// a file in the link's place.
std::string followed(const std::string& path) {
  std::error_code error;
  const auto file = std::filesystem::weakly_canonical(path, error);
  if (error) fail(ErrorCode::kIo, "IndexWriter", path, "a path that leads to a file", error.message());
  return file.string();
}

}  // namespace

IndexWriter::IndexWriter(const std::string& path, const std::string& fingerprint, bool flush)
    : path_(followed(path)),
      lock_(path_ + ".lock"),
      flush_(flush),
      index_(std::make_shared<const detail::Snapshot>(open(fingerprint))) {}

IndexWriter::~IndexWriter() = default;

detail::Snapshot IndexWriter::open(const std::string& fingerprint) {
  const auto file = detail::map_index(path_);
  detail::Snapshot items = file->items();
  const auto extent = detail::replay_journal(*file, items);
  items.require_encoder(fingerprint, "IndexWriter");
  journal_ = std::make_unique<Journal>(path_, *file, extent, flush_);
  return items;
}

void IndexWriter::add(const std::vector<std::int64_t>& ids, const RowMatrixRef& vectors,
                      const std::vector<Metadata>& metadata) {
  constexpr char kFunction[] = "IndexWriter::add";
  index_.state_->change([&](detail::Snapshot& next) {
    detail::add_items(next, ids, vectors, metadata, kFunction);
    const std::lock_guard lock(mutex_);
    journal_->append(kFunction, ChangeKind::kAdd, ids, vectors, metadata);
  });
}

void IndexWriter::add_named(const std::vector<std::string>& names, const RowMatrixRef& vectors,
                            const std::vector<Metadata>& metadata) {
  const auto items = detail::named_items(names, vectors, metadata, "IndexWriter::add_named");
  add(items.ids, vectors, items.metadata);
}

void IndexWriter::update(const std::vector<std::int64_t>& ids, const RowMatrixRef& vectors,
                         const std::vector<Metadata>& metadata) {
  constexpr char kFunction[] = "IndexWriter::update";
  index_.state_->change([&](detail::Snapshot& next) {
    detail::update_items(next, ids, vectors, metadata, kFunction);
    const std::lock_guard lock(mutex_);
    journal_->append(kFunction, ChangeKind::kUpdate, ids, vectors, metadata);
  });
}

void IndexWriter::remove(const std::vector<std::int64_t>& ids) {
  constexpr char kFunction[] = "IndexWriter::remove";
  index_.state_->change([&](detail::Snapshot& next) {
    detail::remove_items(next, ids, kFunction);
    const std::lock_guard lock(mutex_);
    journal_->append(kFunction, ChangeKind::kRemove, ids, RowMatrix(), {});
  });
}

void IndexWriter::compact() {
  index_.state_->change([&](detail::Snapshot& next) {
    detail::write_index(path_, next);
    // From here on the old journal's file has no name any more; append notices that should opening the new one fail.
    const std::lock_guard lock(mutex_);
    next = open(index_.fingerprint());
  });
}

std::uint64_t IndexWriter::journal_bytes() const {
  const std::lock_guard lock(mutex_);
  return journal_->extent().bytes;
}

std::uint64_t IndexWriter::journal_records() const {
  const std::lock_guard lock(mutex_);
  return journal_->extent().records;
}

}  // namespace daug
