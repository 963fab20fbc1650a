#include "approximate_search.h"

#include <algorithm>
#include <optional>
#include <unordered_map>

#include "daug/core/error.h"
#include "daug/core/parallel.h"
#include "exact_search.h"
#include "graph.h"
#include "row_set.h"

// The graph yields candidates, which are then scored like all others. What it does not know of, items that came after
// it, is searched exactly besides. Where few items match the filter, or few of those that the graph yields, the whole
// query is searched exactly: a graph that most of its items must be skipped in costs more than a scan of the rest.

namespace daug::detail {
namespace {

/// An exact search pays below this share of matching items: one in so many.
constexpr std::size_t kFewestMatching = 8;

class GraphSearch {
 public:
  GraphSearch(const Snapshot& snapshot, const RowMatrixRef& queries, const std::vector<double>& norms,
              std::size_t count, std::size_t breadth)
      : snapshot_(snapshot), queries_(queries), norms_(norms), breadth_(std::max(breadth, count)) {
    for (std::uint32_t part = 0; part < snapshot.parts().size(); ++part)
      part_of_[snapshot.parts()[part].chunk->serial()] = part;
  }

  /// Hits among those items of the graph that `has` says; `share` of all items match. A filter may leave out what is
  /// near, and what the graph yields is surest near the query: it is asked until at least `wanted`, and half of the
  /// breadth, match. Nothing where an exact search costs less than that.
  template <class Has>
  std::optional<Hits> run(std::size_t query, const Has& has, double share, std::size_t wanted) const {
    const std::size_t most = snapshot_.graph()->size();
    const std::size_t enough = std::max(wanted, breadth_ / 2);
    for (auto width = static_cast<std::size_t>(static_cast<double>(breadth_) / share);; width *= 2) {
      Hits hits;
      std::vector<Place> places;
      for (const auto number : snapshot_.graph()->nearest(values(query), width)) {
        const auto& item = snapshot_.graph()->item(number);
        const auto place = place_of(item);
        // An item that was updated since is among those that are searched exactly.
        if (!place || place->row >= snapshot_.parts()[place->part].in_graph || !has(*place)) continue;
        places.push_back(*place);
        hits.push_back({item.id, 0});
      }
      for_each_score(snapshot_, values(query), norms_[query], places,
                     [&](std::size_t i, double score) { hits[i].score = score; });
      if (hits.size() >= enough || width >= most) return hits;
      if (width >= most / kFewestMatching) return std::nullopt;
    }
  }

 private:
  /// Where an item of the graph is now.
  std::optional<Place> place_of(const Graph::Item& item) const {
    const auto found = part_of_.find(item.chunk);
    if (found == part_of_.end()) return snapshot_.find(item.id);  // its chunk was rewritten
    const Place place{found->second, item.row};
    if (!snapshot_.parts()[place.part].has(place.row)) return std::nullopt;
    return place;
  }

  const float* values(std::size_t query) const {
    return queries_.data() + static_cast<Eigen::Index>(query) * queries_.outerStride();
  }

  const Snapshot& snapshot_;
  const RowMatrixRef& queries_;
  const std::vector<double>& norms_;
  std::size_t breadth_;
  std::unordered_map<std::uint64_t, std::uint32_t> part_of_;  ///< by serial number of a chunk
};

}  // namespace

std::vector<Hits> approximate_search(const Snapshot& snapshot, const RowMatrixRef& queries, std::size_t count,
                                     const std::vector<Filter>& filters, const SearchOptions& options,
                                     const char* function) {
  options.validate();
  if (!options.fingerprint.empty()) snapshot.require_encoder(options.fingerprint, function);
  require(snapshot.graph() != nullptr, function, "options.breadth", "0, or an index with a graph (build_graph)",
          options.breadth);
  const auto norms = snapshot.checked_norms(queries, function, "queries");
  for (const auto& filter : filters) snapshot.require_fields(filter, function);
  const std::size_t threads = thread_count(options.threads);
  const std::size_t total = norms.size();

  const auto compiled = [&](const Filter& filter) {
    SnapshotFilter made;
    for (const auto& part : snapshot.parts()) made.emplace_back(filter, *part.chunk);
    return made;
  };

  // Items that the graph does not know of, for all queries together.
  const Snapshot outside = snapshot.outside_graph();
  SearchOptions exact = options;
  exact.breadth = 0;
  std::vector<Hits> found(total);
  exact.stats = nullptr;
  if (outside.size() > 0) found = exact_search(outside, queries, {.count = count}, filters, exact, function);
  exact.stats = options.stats;

  const GraphSearch search(snapshot, queries, norms, count, static_cast<std::size_t>(options.breadth));
  std::vector<std::uint8_t> open(total);
  // Of all items `share` match, those that `has` says.
  const auto answer = [&](std::size_t query, double share, std::size_t wanted, const auto& has) {
    const auto hits = search.run(query, has, share, wanted);
    if (hits) found[query].insert(found[query].end(), hits->begin(), hits->end());
    open[query] = !hits || found[query].size() < wanted;
    if (open[query]) return;
    const auto kept = found[query].begin() + static_cast<std::ptrdiff_t>(std::min(count, found[query].size()));
    std::partial_sort(found[query].begin(), kept, found[query].end(), Nearer{snapshot.settings().metric});
    found[query].erase(kept, found[query].end());
  };
  const auto answer_among = [&](std::size_t query, const RowSet& rows, std::size_t matching) {
    open[query] = matching * kFewestMatching < snapshot.size();
    if (open[query]) return;
    const double share = static_cast<double>(matching) / static_cast<double>(snapshot.size());
    answer(query, share, std::min(count, matching), [&](Place place) { return rows.has(place); });
  };
  if (filters.size() == 1) {
    const SnapshotFilter filter = compiled(filters[0]);
    const RowSet rows(snapshot, filter);
    const std::size_t matching = rows.size();
    for_each_task(total, threads, [&](std::size_t, std::size_t query) { answer_among(query, rows, matching); });
  } else {
    // A set has a byte for every item: one query's at a time, and none where the filter lets most items through.
    for_each_task(total, threads, [&](std::size_t, std::size_t query) {
      const SnapshotFilter filter = compiled(filters[query]);
      const double share = sampled_share(snapshot, filter);
      if (share > kCommonShare) {
        // Should fewer than `count` match, the exact search finds that out.
        answer(query, share, count, [&](Place place) { return filter[place.part].matches(place.row); });
        return;
      }
      const RowSet rows(snapshot, filter);
      answer_among(query, rows, rows.size());
    });
  }

  std::vector<std::size_t> left;
  for (std::size_t query = 0; query < total; ++query)
    if (open[query]) left.push_back(query);
  if (options.stats) {
    options.stats->queries += static_cast<std::int64_t>(total - left.size());
    options.stats->graph_queries += static_cast<std::int64_t>(total - left.size());
  }
  if (left.empty()) return found;
  RowMatrix rest(static_cast<Eigen::Index>(left.size()), queries.cols());
  std::vector<Filter> rest_filters;
  for (std::size_t i = 0; i < left.size(); ++i) {
    rest.row(static_cast<Eigen::Index>(i)) = queries.row(static_cast<Eigen::Index>(left[i]));
    if (filters.size() > 1) rest_filters.push_back(filters[left[i]]);
  }
  auto answers =
      exact_search(snapshot, rest, {.count = count}, filters.size() > 1 ? rest_filters : filters, exact, function);
  for (std::size_t i = 0; i < left.size(); ++i) found[left[i]] = std::move(answers[i]);
  return found;
}

}  // namespace daug::detail
