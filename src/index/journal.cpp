#include "journal.h"

#include "changes.h"
#include "daug/core/error.h"
#include "daug/io/bytes.h"
#include "daug/io/fingerprint.h"

namespace daug::detail {
namespace {

constexpr const char* kLoad = "RetrievalIndex::load";
constexpr std::size_t kHeadBytes = 2 * sizeof(std::uint32_t) + 4 * sizeof(std::uint64_t);

/// What the checksum of a head covers.
std::uint64_t head_check(std::uint64_t header_check, std::string_view numbers) {
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

}  // namespace

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
  put(record, head_check(header_check, record));
  return record + body;
}

JournalExtent replay_journal(const IndexFile& file, std::string_view journal, Snapshot& snapshot) {
  JournalExtent extent;
  while (journal.size() - extent.bytes >= kHeadBytes) {
    const std::string part = concat("journal record ", extent.records);
    const auto rest = journal.substr(extent.bytes);
    ByteReader head(rest.substr(0, kHeadBytes), kLoad, file.name(), part.c_str());
    const auto kind = head.number<std::uint32_t>();
    const auto zero = head.number<std::uint32_t>();
    const auto number = head.number<std::uint64_t>();
    const auto length = head.number<std::uint64_t>();
    const auto body_check = head.number<std::uint64_t>();
    const auto check = head.number<std::uint64_t>();
    if (check != head_check(file.header_check(), rest.substr(0, kHeadBytes - sizeof check)))
      head.fail_format("a head that fits its checksum", "other contents");
    if (kind < 1 || kind > 3 || zero != 0 || number != extent.records)
      head.fail_format(concat("a change, number ", extent.records), concat("kind ", kind, ", number ", number));
    if (length > rest.size() - kHeadBytes) break;  // not completed
    const auto body = rest.substr(kHeadBytes, static_cast<std::size_t>(length));
    if (checksum64(body.data(), body.size()) != body_check)
      head.fail_format("contents that fit their checksum", "other contents");
    try {
      apply({body, kLoad, file.name(), part.c_str()}, static_cast<ChangeKind>(kind), snapshot);
    } catch (const Error& error) {
      if (error.code() == ErrorCode::kFormat) throw;
      head.fail_format("a change that can be made", std::string("'") + error.what() + "'");
    }
    extent.bytes += kHeadBytes + body.size();
    ++extent.records;
  }
  return extent;
}

}  // namespace daug::detail
