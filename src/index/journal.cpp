#include "journal.h"

#include <algorithm>

#include "changes.h"
#include "daug/core/error.h"
#include "daug/io/bytes.h"
#include "daug/io/fingerprint.h"

namespace daug::detail {
namespace {

constexpr const char* kLoad = "RetrievalIndex::load";
constexpr std::size_t kHeadBytes = 2 * sizeof(std::uint32_t) + 4 * sizeof(std::uint64_t);

/// Checksum of numbers that belong to a file.
std::uint64_t bound_check(std::uint64_t header_check, std::string_view numbers) {
  std::string covered;
  put(covered, header_check);
  covered += numbers;
  return checksum64(covered.data(), covered.size());
}

void apply(ByteReader body, ChangeKind kind, Snapshot& snapshot) {
  const auto dimension = snapshot.settings().components();
  const auto count = body.number<std::uint64_t>();
  const auto ids = body.numbers<std::int64_t>(count);
  if (kind == ChangeKind::kRemove) {
    body.expect_end();
    remove_items(snapshot, ids, "journal");
    return;
  }
  const auto values = body.numbers<float>(count * dimension);
  std::vector<Metadata> metadata;
  if (body.number<std::uint64_t>() != 0) {
    metadata.resize(ids.size());
    for (auto& texts : metadata)
      for (auto pairs = body.number<std::uint64_t>(); pairs > 0; --pairs) {
        const auto name = body.text();
        if (!texts.emplace(name, body.text()).second) body.fail_format("each name once in an item", "'" + name + "'");
      }
  }
  body.expect_end();
  const Eigen::Map<const RowMatrix> vectors(values.data(), static_cast<Eigen::Index>(ids.size()),
                                            static_cast<Eigen::Index>(dimension));
  if (kind == ChangeKind::kAdd)
    add_items(snapshot, ids, vectors, metadata, "journal");
  else
    update_items(snapshot, ids, vectors, metadata, "journal");
}

/// The records that the commit counts.
std::string_view committed(const IndexFile& file, std::string_view journal) {
  ByteReader reader(journal, kLoad, file.name(), "journal");
  const auto length = reader.number<std::uint64_t>();
  if (reader.number<std::uint64_t>() != bound_check(file.header_check(), journal.substr(0, sizeof length)))
    reader.fail_format("a length that fits its checksum", length);
  if (length > reader.remaining())
    reader.fail_format(concat(length, " bytes of changes"),
                       concat(reader.remaining(), ": the file was cut off (IndexWriter::recover keeps what is whole)"));
  return reader.take(length);
}

struct Record {
  ChangeKind kind;
  std::string_view body;
};

/// The record, number `index`, that `journal` begins with.
Record read_record(const IndexFile& file, std::string_view journal, std::uint64_t index, const std::string& part) {
  ByteReader head(journal, kLoad, file.name(), part.c_str());
  const auto kind = head.number<std::uint32_t>();
  const auto zero = head.number<std::uint32_t>();
  const auto number = head.number<std::uint64_t>();
  const auto length = head.number<std::uint64_t>();
  const auto body_check = head.number<std::uint64_t>();
  const auto check = head.number<std::uint64_t>();
  if (check != bound_check(file.header_check(), journal.substr(0, kHeadBytes - sizeof check)))
    head.fail_format("a head that fits its checksum", "other contents");
  if (kind < 1 || kind > 3 || zero != 0 || number != index)
    head.fail_format(concat("a change, number ", index), concat("kind ", kind, ", number ", number));
  const auto body = head.take(length);
  if (checksum64(body.data(), body.size()) != body_check)
    head.fail_format("contents that fit their checksum", "other contents");
  return {static_cast<ChangeKind>(kind), body};
}

}  // namespace

std::string journal_commit(std::uint64_t header_check, std::uint64_t length) {
  std::string commit;
  put(commit, length);
  put(commit, bound_check(header_check, commit));
  return commit;
}

std::string journal_record(std::uint64_t header_check, std::uint64_t number, ChangeKind kind,
                           const std::vector<std::int64_t>& ids, const RowMatrixRef& vectors,
                           const std::vector<Metadata>& metadata) {
  std::string body;
  put<std::uint64_t>(body, ids.size());
  for (const auto id : ids) put(body, id);
  if (kind != ChangeKind::kRemove) {
    const auto bytes = static_cast<std::size_t>(vectors.cols()) * sizeof(float);
    for (Eigen::Index row = 0; row < vectors.rows(); ++row)
      body.append(reinterpret_cast<const char*>(vectors.data() + row * vectors.outerStride()), bytes);
    put<std::uint64_t>(body, metadata.empty() ? 0 : 1);
    for (const auto& texts : metadata) {
      put<std::uint64_t>(body, texts.size());
      for (const auto& [name, value] : texts) {
        put_text(body, name);
        put_text(body, value);
      }
    }
  }
  std::string record;
  put(record, static_cast<std::uint32_t>(kind));
  put<std::uint32_t>(record, 0);
  put(record, number);
  put<std::uint64_t>(record, body.size());
  put(record, checksum64(body.data(), body.size()));
  put(record, bound_check(header_check, record));
  return record + body;
}

JournalExtent replay_journal(const IndexFile& file, std::string_view journal, Snapshot& snapshot, bool recover) {
  JournalExtent extent;
  journal = recover ? journal.substr(std::min(journal.size(), kCommitBytes)) : committed(file, journal);
  for (; extent.bytes < journal.size(); ++extent.records) {
    const std::string part = concat("journal record ", extent.records);
    Record record{};
    try {
      record = read_record(file, journal.substr(extent.bytes), extent.records, part);
    } catch (const Error&) {
      if (recover) break;
      throw;
    }
    const ByteReader body(record.body, kLoad, file.name(), part.c_str());
    try {
      apply(body, record.kind, snapshot);
    } catch (const Error& error) {
      if (error.code() == ErrorCode::kFormat) throw;
      body.fail_format("a change that can be made", std::string("'") + error.what() + "'");
    }
    extent.bytes += kHeadBytes + record.body.size();
  }
  return extent;
}

}  // namespace daug::detail
