#include "daug/index/index_writer.h"

#include <algorithm>
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
        commit_(items.length()),
        extent_(extent),
        flush_(flush) {
    if (file_.size() > end()) file_.truncate(end());
  }

  const detail::JournalExtent& extent() const { return extent_; }

  /// Whether the file's name still leads to it.
  bool is_current() const { return file_.is_current(); }
  void require_current(const char* function) const {
    if (!is_current())
      fail(ErrorCode::kMismatch, function, file_.path(), "the file that was opened", "another in its place");
  }

  void append(const char* function, ChangeKind kind, const std::vector<std::int64_t>& ids, const RowMatrixRef& vectors,
              const std::vector<Metadata>& metadata) {
    if (torn_)
      fail(ErrorCode::kIo, function, file_.path(), "a file in order", "one with part of a record; open it again");
    require_current(function);
    const auto record = detail::journal_record(header_check_, extent_.records, kind, ids, vectors, metadata);
    try {
      file_.write(end(), record.data(), record.size());
      if (flush_) file_.flush();  // first, or after a power cut the commit might be there without the record
      commit(extent_.bytes + record.size());
    } catch (...) {
      torn_ = true;
      commit(extent_.bytes);
      file_.truncate(end());
      torn_ = false;
      throw;
    }
    extent_.bytes += record.size();
    ++extent_.records;
  }

  /// Makes the records up to this length the completed ones. Readers see one commit or the other: it is 16 bytes that
  /// begin on a multiple of 64, or else they read it again.
  void commit(std::uint64_t length) {
    const auto bytes = detail::journal_commit(header_check_, length);
    file_.write(commit_, bytes.data(), bytes.size());
    if (flush_) file_.flush();
  }

 private:
  std::uint64_t end() const { return commit_ + detail::kCommitBytes + extent_.bytes; }

  RandomAccessFile file_;
  std::uint64_t header_check_;
  std::uint64_t commit_;  ///< where it stands
  detail::JournalExtent extent_;
  bool flush_;
  bool torn_ = false;
};

IndexWriter::IndexWriter(const std::string& path, const std::string& fingerprint, bool flush,
                         std::uint64_t journal_limit)
    : path_(followed_path("IndexWriter", path)),
      lock_(detail::lock_path(path_)),
      flush_(flush),
      journal_limit_(journal_limit),
      index_(std::make_shared<const detail::Snapshot>(open(fingerprint))) {}

IndexWriter::~IndexWriter() {
  try {
    if (journal_->extent().bytes > journal_limit_ && journal_->is_current())
      detail::write_index(path_, *index_.state_->snapshot());
  } catch (...) {
    // The file is as it was: slower to open, but with all changes.
  }
}

detail::Snapshot IndexWriter::open(const std::string& fingerprint) {
  constexpr std::uint64_t kMostCopied = 16;  // bytes of items that are written anew for a byte of changes
  auto opened = detail::open_index(path_);
  opened.snapshot.require_encoder(fingerprint, "IndexWriter");
  journal_ = std::make_unique<Journal>(path_, *opened.file, opened.journal, flush_);
  fold_beyond_ = std::max(journal_limit_, opened.file->length() / kMostCopied);
  return std::move(opened.snapshot);
}

void IndexWriter::fold(detail::Snapshot& next, bool keep_graph) {
  {
    const std::lock_guard lock(mutex_);
    journal_->require_current("IndexWriter");
  }
  detail::write_index(path_, next);
  // From here on the old journal's file has no name any more; append notices that should opening the new one fail.
  const std::lock_guard lock(mutex_);
  auto items = open(index_.fingerprint());
  if (!keep_graph || next.graph() == nullptr) next = std::move(items);
}

void IndexWriter::fold_when_long() {
  const auto is_long = [&] {
    const std::lock_guard lock(mutex_);
    return journal_->extent().bytes > fold_beyond_;
  };
  if (!is_long()) return;
  index_.state_->change([&](detail::Snapshot& next) {
    if (!is_long()) return;  // another thread was faster
    try {
      fold(next, true);
    } catch (const Error& error) {
      if (error.code() != ErrorCode::kIo) throw;
      // No room, which a record may still have: the change must not fail for it, nor every later one try again.
      const std::lock_guard lock(mutex_);
      fold_beyond_ = 2 * journal_->extent().bytes;
    }
  });
}

std::uint64_t IndexWriter::recover(const std::string& path) {
  const auto file = followed_path("IndexWriter", path);
  const FileLock lock(detail::lock_path(file));
  const auto opened = detail::open_index(file, true);
  Journal(file, *opened.file, opened.journal, true).commit(opened.journal.bytes);
  return opened.journal.records;
}

void IndexWriter::add(const std::vector<std::int64_t>& ids, const RowMatrixRef& vectors,
                      const std::vector<Metadata>& metadata) {
  constexpr char kFunction[] = "IndexWriter::add";
  fold_when_long();
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
  fold_when_long();
  index_.state_->change([&](detail::Snapshot& next) {
    detail::update_items(next, ids, vectors, metadata, kFunction);
    const std::lock_guard lock(mutex_);
    journal_->append(kFunction, ChangeKind::kUpdate, ids, vectors, metadata);
  });
}

void IndexWriter::remove(const std::vector<std::int64_t>& ids) {
  constexpr char kFunction[] = "IndexWriter::remove";
  fold_when_long();
  index_.state_->change([&](detail::Snapshot& next) {
    detail::remove_items(next, ids, kFunction);
    const std::lock_guard lock(mutex_);
    journal_->append(kFunction, ChangeKind::kRemove, ids, RowMatrix(), {});
  });
}

void IndexWriter::compact() {
  index_.state_->change([&](detail::Snapshot& next) { fold(next, false); });
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
