#include "verify.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <unordered_set>
#include <utility>

#include "approximate_search.h"
#include "daug/core/error.h"
#include "exact_score.h"
#include "exact_search.h"

namespace daug::detail {
namespace {

constexpr const char* kVerify = "RetrievalIndex::verify";

/// Codes a block of rows again and compares.
void verify_block(const Chunk& chunk, std::size_t block, const std::string& part) {
  const auto& settings = chunk.settings();
  ScanStore fresh(settings.components(), settings.metric, settings.options.storage, kBlockRows);
  for (std::size_t row = block * kBlockRows; row < std::min(chunk.rows(), (block + 1) * kBlockRows); ++row)
    fresh.set(row % kBlockRows, chunk.values(row), chunk.norms()[row]);
  const ScanRows kept = chunk.blocks(block, 1);
  const ScanArrays expected = fresh.arrays();
  constexpr std::size_t kBytes = kBlockRows * sizeof(float);
  if (std::memcmp(kept.codes, expected.codes, block_bytes(settings.options.storage, settings.components())) != 0 ||
      std::memcmp(kept.scale, expected.scale, kBytes) != 0 || std::memcmp(kept.error, expected.error, kBytes) != 0 ||
      std::memcmp(kept.offset, expected.offset, kBytes) != 0)
    fail(ErrorCode::kFormat, kVerify, part, "codes and bounds of the vectors", concat("others in block ", block));
}

void verify_chunk(const Chunk& chunk, const std::set<std::string>& fields, const std::string& part) {
  const auto& settings = chunk.settings();
  (void)chunk.all();
  for (std::size_t row = 0; row < chunk.rows(); ++row) {
    const double norm = norm_of(chunk.values(row), settings.components());
    const double kept = chunk.norms()[row];
    if (!std::isfinite(norm) || std::memcmp(&norm, &kept, sizeof norm) != 0)
      fail(ErrorCode::kFormat, kVerify, part, concat("finite values of norm ", kept), concat(norm, " in row ", row));
    if (settings.metric == Metric::kCosine && norm == 0)
      fail(ErrorCode::kFormat, kVerify, part, "directions (metric cosine)", concat("a zero vector in row ", row));
  }
  if (settings.options.storage != Storage::kFloat32)
    for (std::size_t block = 0; block * kBlockRows < chunk.rows(); ++block) verify_block(chunk, block, part);
  for (const auto& [name, column] : chunk.table().columns())
    if (!fields.count(name))
      fail(ErrorCode::kFormat, kVerify, part, "metadata that the header names", "'" + name + "'");
}

/// The nearest by their definition: every item scored.
Hits nearest_of_all(const Snapshot& snapshot, const float* query, std::size_t wanted) {
  const auto& settings = snapshot.settings();
  const double norm = norm_of(query, settings.components());
  Hits hits;
  for (const auto& part : snapshot.parts())
    for (std::size_t row = 0; row < part.chunk->rows(); ++row) {
      if (!part.has(row)) continue;
      const float* values = part.chunk->values(row);
      const auto score =
          exact_scores<1>(settings.metric, settings.components(), query, norm, {values}, {part.chunk->norms()[row]})[0];
      hits.push_back({part.chunk->ids()[row], score});
    }
  const auto end = hits.begin() + static_cast<std::ptrdiff_t>(wanted);
  std::partial_sort(hits.begin(), end, hits.end(), Nearer{settings.metric});
  hits.erase(end, hits.end());
  return hits;
}

}  // namespace

IndexCheck verify_snapshot(const Snapshot& snapshot) {
  IndexCheck check;
  std::unordered_set<std::int64_t> ids;
  for (const auto& part : snapshot.parts()) {
    const std::string name = concat("chunk ", check.chunks);
    verify_chunk(*part.chunk, snapshot.fields(), name);
    for (std::size_t row = 0; row < part.chunk->rows(); ++row)
      if (part.has(row) && !ids.insert(part.chunk->ids()[row]).second)
        fail(ErrorCode::kFormat, kVerify, name, "ids that differ", concat(part.chunk->ids()[row], " twice"));
    ++check.chunks;
  }
  check.items = static_cast<std::int64_t>(ids.size());
  return check;
}

double measured_recall(const Snapshot& snapshot, std::int64_t sample, const SearchOptions& options) {
  constexpr std::size_t kNearest = 10;
  require(sample >= 0, kVerify, "sample", "0 or more", sample);
  const std::size_t count = std::min(static_cast<std::size_t>(sample), snapshot.size());
  if (count == 0 || snapshot.size() < 2) return 1;
  const std::size_t wanted = std::min(kNearest + 1, snapshot.size());
  RowMatrix queries(static_cast<Eigen::Index>(count), snapshot.settings().dimension);
  std::vector<std::int64_t> own;
  std::size_t at = 0;
  for (const auto& part : snapshot.parts())
    for (std::size_t row = 0; row < part.chunk->rows(); ++row) {
      if (!part.has(row)) continue;
      if (at++ != own.size() * snapshot.size() / count || own.size() == count) continue;
      queries.row(static_cast<Eigen::Index>(own.size())) =
          Eigen::Map<const Eigen::RowVectorXf>(part.chunk->values(row), queries.cols());
      own.push_back(part.chunk->ids()[row]);
    }
  // Exact searches tell what approximate ones miss; nothing but the definition tells what they miss themselves.
  SearchOptions exact = options;
  exact.breadth = 0;
  auto found = exact_search(snapshot, queries, {.count = wanted}, {Filter()}, exact, kVerify);
  std::vector<Hits> truth;
  if (options.breadth != 0) {
    truth = std::exchange(found, approximate_search(snapshot, queries, wanted, {Filter()}, options, kVerify));
  } else {
    for (Eigen::Index i = 0; i < queries.rows(); ++i)
      truth.push_back(nearest_of_all(snapshot, queries.row(i).data(), wanted));
  }
  std::size_t all = 0;
  std::size_t seen = 0;
  for (std::size_t query = 0; query < count; ++query)
    for (const auto& hit : truth[query]) {
      if (hit.id == own[query]) continue;
      ++all;
      seen += std::any_of(found[query].begin(), found[query].end(), [&](const Hit& each) { return each.id == hit.id; });
    }
  return static_cast<double>(seen) / static_cast<double>(all);
}

}  // namespace daug::detail
