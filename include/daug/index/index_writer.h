#pragma once
/// @file
/// An index whose changes are in its file when the call that makes them returns.

#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "daug/index/retrieval_index.h"
#include "daug/io/random_access_file.h"

namespace daug {

/// The one writer of an index file. While it lives, the file's name with ".lock" behind it (an empty file that stays)
/// is locked, and RetrievalIndex::save to that file refused. Symbolic links to the file, or to a folder above it, lead
/// to the same lock; hard links do not.
///
/// A change is written behind the items as one record, and then the length of all records before them. After a crash,
/// kill -9 or a full disk the file holds all changes that were completed and perhaps the one that was being made, whole
/// or not at all. A file that was cut off is shorter than that length and refused. Other processes that open the file
/// see what was complete then.
///
/// Opening replays the records, so they are folded into the items (as by `compact`, but a graph stays): when the writer
/// is closed with more than `journal_limit` bytes of them, and before a change when they are also more than a sixteenth
/// of the file's items, so that all folding together writes a bounded multiple of the changes. Where the disk has no
/// room for a second file they stay records, which is no error, and folding is tried again when they are twice as many.
/// An index with a graph goes on reading the file that its items came from, which takes room until it is compacted.
///
/// All members may be called from several threads; changes wait for each other, searches of `index()` for nobody.
class IndexWriter {
 public:
  /// The usual `journal_limit`: some 2000 changes of one item of 512 components.
  static constexpr std::uint64_t kJournalLimit = std::uint64_t{4} << 20U;

  /// Opens a file that RetrievalIndex::save wrote, and cuts off what a crash left of a record. With `flush`, changes
  /// return when they are on the disk, so that a power cut loses as little as a crash of the process does; without, the
  /// file may be refused after one. `journal_limit`: bytes of records that a closed file may hold, see above; 0 folds
  /// all of them, 2^64 - 1 none ever.
  ///
  /// Throws kBusy when the file has a writer or is being saved to, kMismatch when `fingerprint` is not that of the
  /// index, and what RetrievalIndex::load throws.
  IndexWriter(const std::string& path, const std::string& fingerprint, bool flush = true,
              std::uint64_t journal_limit = kJournalLimit);
  /// Folds the records when there are too many, and gives the lock back. The file holds all changes already and still
  /// does when that fails, of which nothing is said; another file in its place is left alone.
  ~IndexWriter();
  IndexWriter(const IndexWriter&) = delete;
  IndexWriter& operator=(const IndexWriter&) = delete;

  /// For a file that is refused because it was cut off among its changes, or one of them is damaged: gives up all from
  /// the first on that is not whole, and returns how many are left, >= 0. A change that was written whole but not
  /// counted yet when its writer crashed is kept here, and here alone.
  ///
  /// Throws kBusy as the constructor does, kNotFound, kIo, and kFormat when it is damaged before its changes.
  static std::uint64_t recover(const std::string& path);

  /// To search it. Copy it to keep its items as they are now.
  const RetrievalIndex& index() const { return index_; }

  /// As RetrievalIndex::add. This and the members below throw also kIo with the reason, such as a full disk, and
  /// kMismatch when another file has been put in place of the one that was opened, kFormat when the items that changes
  /// are to be folded into are damaged; then neither file nor index have changed.
  void add(const std::vector<std::int64_t>& ids, const RowMatrixRef& vectors,
           const std::vector<Metadata>& metadata = {});
  /// As RetrievalIndex::add_named.
  void add_named(const std::vector<std::string>& names, const RowMatrixRef& vectors,
                 const std::vector<Metadata>& metadata = {});
  /// As RetrievalIndex::update.
  void update(const std::vector<std::int64_t>& ids, const RowMatrixRef& vectors,
              const std::vector<Metadata>& metadata = {});
  /// As RetrievalIndex::remove.
  void remove(const std::vector<std::int64_t>& ids);

  /// As RetrievalIndex::build_graph. The graph is in memory alone.
  void build_graph(const GraphOptions& options = {}) { index_.build_graph(options); }

  /// Writes the file anew, with all changes among the items; whatever happens, the file is the old one or the new one.
  /// The index then reads from it; a graph that was built of it is gone.
  /// Throws kIo, kFormat when items are damaged, kMismatch when another file has been put in place of the one that was
  /// opened, which is left alone.
  void compact();

  /// Bytes of the changes that are not among the items yet.
  std::uint64_t journal_bytes() const;
  /// Number of these changes.
  std::uint64_t journal_records() const;

 private:
  class Journal;

  /// Reads the file, and puts its journal in place of the one before.
  detail::Snapshot open(const std::string& fingerprint);
  /// Writes the file anew with the items of `next`, which then are those of the file, unless there is a graph to keep.
  void fold(detail::Snapshot& next, bool keep_graph);
  /// The same where the journal has grown too long, if there is room.
  void fold_when_long();

  std::string path_;
  FileLock lock_;
  bool flush_;
  std::uint64_t journal_limit_;
  mutable std::mutex mutex_;  ///< of the two below
  std::unique_ptr<Journal> journal_;
  std::uint64_t fold_beyond_ = 0;  ///< bytes of the journal
  RetrievalIndex index_;
};

}  // namespace daug
