#pragma once
// Changes to an index that stand in its file behind the items. First the commit, which a writer exchanges as a whole
// when a record is written:
//
//     length     u64      of the records that are completed, all together
//     check      u64      XXH3 of the checksum of the file's header and the length
//
// then records, of which one is
//
//     kind       u32      1 add, 2 update, 3 remove
//     zero       u32
//     number     u64      of the record, from 0
//     length     u64      of the body
//     body check u64      XXH3 of the body
//     head check u64      XXH3 of the checksum of the file's header and all numbers above
//     body       number of items u64, their ids i64; then, but for remove: dimension f32 an item, a u64 that is 1 when
//                there is metadata; then for each item the number of pairs u64 and name and value (texts) of each
//
// What stands behind that length is being written, or was when a writer crashed, and does not exist. A file that is
// shorter was cut off: damage, like a record that is not whole.

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "index_file.h"

namespace daug::detail {

enum class ChangeKind : std::uint32_t { kAdd = 1, kUpdate = 2, kRemove = 3 };

constexpr std::size_t kCommitBytes = 2 * sizeof(std::uint64_t);

/// The commit of records of `length` bytes.
std::string journal_commit(std::uint64_t header_check, std::uint64_t length);

/// Bytes of a record.
std::string journal_record(std::uint64_t header_check, std::uint64_t number, ChangeKind kind,
                           const std::vector<std::int64_t>& ids, const RowMatrixRef& vectors,
                           const std::vector<Metadata>& metadata);

/// Applies the completed records of `journal`, what stands behind the items of `file`. Throws kFormat naming what is
/// damaged; under `recover` only those before the first damaged record are applied, whatever the commit says.
JournalExtent replay_journal(const IndexFile& file, std::string_view journal, Snapshot& snapshot, bool recover = false);

}  // namespace daug::detail
