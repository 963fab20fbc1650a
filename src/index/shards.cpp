#include "daug/index/shards.h"

#include <algorithm>
#include <unordered_set>

#include "daug/core/error.h"
#include "exact_score.h"

namespace daug {

std::vector<Hits> merge_hits(const std::vector<std::vector<Hits>>& shards, std::int64_t k, Metric metric) {
  constexpr const char* kFunction = "merge_hits";
  require(k >= 1, kFunction, "k", "at least 1", k);
  const detail::Nearer nearer{metric};
  std::vector<Hits> merged(shards.empty() ? 0 : shards[0].size());
  for (std::size_t shard = 0; shard < shards.size(); ++shard) {
    if (shards[shard].size() != merged.size())
      fail(ErrorCode::kMismatch, kFunction, detail::concat("shards[", shard, "]"),
           detail::concat(merged.size(), " queries"), shards[shard].size());
    for (std::size_t query = 0; query < merged.size(); ++query) {
      const Hits& hits = shards[shard][query];
      require(std::is_sorted(hits.begin(), hits.end(), nearer), kFunction, "shards", "hits from the nearest on",
              detail::concat("others in shard ", shard));
      const auto middle = static_cast<std::ptrdiff_t>(merged[query].size());
      merged[query].insert(merged[query].end(), hits.begin(), hits.end());
      std::inplace_merge(merged[query].begin(), merged[query].begin() + middle, merged[query].end(), nearer);
    }
  }
  for (auto& hits : merged) {
    std::unordered_set<std::int64_t> ids;
    for (const auto& hit : hits)
      require(ids.insert(hit.id).second, kFunction, "shards", "ids that one shard has",
              detail::concat(hit.id, " in two"));
    hits.resize(std::min(hits.size(), static_cast<std::size_t>(k)));
  }
  return merged;
}

}  // namespace daug
