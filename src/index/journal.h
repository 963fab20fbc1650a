#pragma once
// Changes to an index that stand in its file behind the items. One record is
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
// A record that the file ends in the middle of was not completed and does not exist. Any other that is not whole is
// damage.

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "index_file.h"

namespace daug::detail {

enum class ChangeKind : std::uint32_t { kAdd = 1, kUpdate = 2, kRemove = 3 };

/// Bytes of a record.
std::string journal_record(std::uint64_t header_check, std::uint64_t number, ChangeKind kind,
                           const std::vector<std::int64_t>& ids, const RowMatrixRef& vectors,
                           const std::vector<Metadata>& metadata);

/// Applies the complete records of `journal`, what stands behind the items of `file`. Throws kFormat naming a damaged
/// one.
JournalExtent replay_journal(const IndexFile& file, std::string_view journal, Snapshot& snapshot);

}  // namespace daug::detail
