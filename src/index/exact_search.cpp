#include "exact_search.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <memory>
#include <numeric>
#include <utility>

#include "daug/core/error.h"
#include "daug/core/parallel.h"
#include "row_set.h"
#include "shortlist.h"

// A search goes from coarse to fine. Every matching item's score is bounded from the stored codes; what the bounds
// leave open is scored again in double. A query for which they leave too much open is bounded again from the float32
// vectors, and if that does not decide either (many copies of one vector), every item is scored in double.

namespace daug::detail {
namespace {

constexpr std::size_t kQueriesPerPass = 1024;     ///< limits the memory of a search
constexpr std::size_t kQueriesPerScan = 48;       ///< a multiple of every kernel's tile
constexpr std::size_t kSpanBytes = 128 * 1024;    ///< rows that a thread takes at a time: they stay in its cache
constexpr std::size_t kLongestSpan = 64;          ///< blocks; limits the survivors of one scan
constexpr std::size_t kWorkOfThread = 1U << 21U;  ///< multiplications worth a thread

struct Counters {
  std::atomic<std::int64_t> scanned{0};
  std::atomic<std::int64_t> rescored{0};
  std::atomic<std::int64_t> float32_fallbacks{0};
  std::atomic<std::int64_t> float64_fallbacks{0};
};

class Search {
 public:
  using Places = std::vector<Place>;

  Search(const Snapshot& snapshot, const RowMatrixRef& queries, std::vector<double> norms, const SearchGoal& goal,
         const std::vector<Filter>& filters, const SearchOptions& options, const char* function)
      : snapshot_(snapshot),
        metric_(snapshot.settings().metric),
        dimension_(snapshot.settings().components()),
        function_(function),
        queries_(queries),
        goal_(goal),
        norms_(std::move(norms)),
        threads_(thread_count(options.threads)),
        most_(std::max(static_cast<std::size_t>(options.max_candidates), 8 * goal.count)),
        found_(norms_.size()) {
    filters_.resize(filters.size());
    for (const auto& filter : filters) snapshot.require_fields(filter, function);
    for_each_task(filters.size(), threads_, [&](std::size_t, std::size_t i) {
      for (const auto& part : snapshot.parts()) filters_[i].emplace_back(filters[i], *part.chunk);
    });
  }

  std::vector<Hits> run() {
    if (snapshot_.size() == 0) return std::move(found_);
    std::vector<std::size_t> all(norms_.size());
    std::iota(all.begin(), all.end(), 0);
    if (filters_.size() == 1) {
      answer(all, RowSet(snapshot_, filters_[0]), threads_);
      return std::move(found_);
    }
    // A filter that few items match is worked out for all of them; another is asked about single items on the way.
    const auto rare = std::stable_partition(all.begin(), all.end(), [&](std::size_t query) {
      return sampled_share(snapshot_, filters_[query]) > kCommonShare;
    });
    const std::vector<std::size_t> selective(rare, all.end());
    all.erase(rare, all.end());
    answer(all, RowSet(snapshot_), threads_);
    for_each_task(selective.size(), threads_, [&](std::size_t, std::size_t i) {
      answer({selective[i]}, RowSet(snapshot_, filters_[selective[i]]), 1);
    });
    return std::move(found_);
  }

  /// The hits among given items, one list a query, the largest bound first.
  std::vector<Hits> run(const std::vector<std::vector<BoundedPlace>>& items) {
    for_each_task(items.size(), threads_, [&](std::size_t, std::size_t query) { score_open(query, items[query]); });
    return std::move(found_);
  }

  void count(SearchStats& stats) const {
    stats.queries += static_cast<std::int64_t>(norms_.size());
    stats.scanned += counters_.scanned;
    stats.rescored += counters_.rescored;
    stats.float32_fallbacks += counters_.float32_fallbacks;
    stats.float64_fallbacks += counters_.float64_fallbacks;
  }

 private:
  using List = std::vector<std::size_t>;

  const float* values(std::size_t query) const {
    return queries_.data() + static_cast<Eigen::Index>(query) * queries_.outerStride();
  }

  bool matches(std::size_t query, Place place, const RowSet& rows) const {
    return rows.has(place) && (filters_.size() == 1 || filters_[query][place.part].matches(place.row));
  }

  /// Finds the hits of queries that search the same rows.
  void answer(const List& queries, const RowSet& rows, std::size_t threads) {
    for (std::size_t first = 0; first < queries.size(); first += kQueriesPerPass) {
      const auto begin = queries.begin() + static_cast<std::ptrdiff_t>(first);
      List open(begin, begin + static_cast<std::ptrdiff_t>(std::min(kQueriesPerPass, queries.size() - first)));
      open = pass(snapshot_.settings().options.storage, open, rows, threads);
      if (snapshot_.settings().options.storage != Storage::kFloat32 && !open.empty()) {
        counters_.float32_fallbacks += static_cast<std::int64_t>(open.size());
        open = pass(Storage::kFloat32, open, rows, threads);
      }
      counters_.float64_fallbacks += static_cast<std::int64_t>(open.size());
      for_each_task(open.size(), threads, [&](std::size_t, std::size_t i) { score_all(open[i], rows); });
    }
  }

  /// What a thread found so far.
  struct Worker {
    Worker(const Search& search, Storage storage_, const std::vector<QueryRank>& ranks)
        : storage(storage_),
          reader(storage_, search.dimension_, search.metric_),
          survivors(kLongestSpan * kBlockRows * std::min(kQueriesPerScan, ranks.size())) {
      lists.reserve(ranks.size());
      for (const auto& rank : ranks) {
        lists.push_back(search.goal_.score ? Shortlist::at_least(rank.rank_of(*search.goal_.score))
                                           : Shortlist(search.goal_.count, search.most_));
        thresholds.push_back(rank.threshold(lists.back().limit()));
      }
    }
    Storage storage;
    BlockReader reader;
    std::vector<Survivor> survivors;
    std::vector<Shortlist> lists;
    std::vector<float> thresholds;
  };

  /// Answers queries from bounds at one precision; returns those that remain open.
  List pass(Storage storage, const List& queries, const RowSet& rows, std::size_t threads) {
    List open;
    List bounded;
    std::vector<QueryRank> ranks;
    CodedQueries coded(storage, dimension_);
    for (const auto query : queries) {
      const QueryRank rank(metric_, dimension_, norms_[query]);
      if (!rank.bounded()) {
        open.push_back(query);
        continue;
      }
      bounded.push_back(query);
      ranks.push_back(rank);
      coded.add(values(query), rank);
    }

    const auto spans =
        rows.spans(std::clamp<std::size_t>(kSpanBytes / block_bytes(storage, dimension_), 1, kLongestSpan));
    std::size_t blocks = 0;
    for (const auto& span : spans) blocks += span.count;
    threads = std::min(threads, 1 + blocks * kBlockRows * dimension_ * bounded.size() / kWorkOfThread);
    counters_.scanned += static_cast<std::int64_t>(blocks * kBlockRows * bounded.size());

    std::vector<std::unique_ptr<Worker>> workers(threads);
    for_each_task(spans.size(), threads, [&](std::size_t worker, std::size_t task) {
      if (!workers[worker]) workers[worker] = std::make_unique<Worker>(*this, storage, ranks);
      scan_span(spans[task], coded, ranks, bounded, rows, *workers[worker]);
    });

    std::erase_if(workers, [](const auto& worker) { return !worker; });
    if (workers.empty()) return open;
    std::vector<std::uint8_t> decided(bounded.size());
    for_each_task(bounded.size(), threads, [&](std::size_t, std::size_t i) {
      Shortlist& list = workers[0]->lists[i];
      for (std::size_t worker = 1; worker < workers.size(); ++worker) list.merge(workers[worker]->lists[i]);
      decided[i] = decide(bounded[i], list);
    });
    for (std::size_t i = 0; i < bounded.size(); ++i)
      if (!decided[i]) open.push_back(bounded[i]);
    return open;
  }

  void scan_span(const Span& span, const CodedQueries& coded, const std::vector<QueryRank>& ranks, const List& queries,
                 const RowSet& rows, Worker& worker) const {
    const Chunk& chunk = *snapshot_.parts()[span.part].chunk;
    const ScanRows blocks = worker.reader.read(chunk, span.first, span.count);
    const double* norms = chunk.norms() + span.first * kBlockRows;
    for (std::size_t first = 0; first < ranks.size(); first += kQueriesPerScan) {
      const auto some = coded.queries(first, std::min(kQueriesPerScan, ranks.size() - first), worker.thresholds.data());
      const std::size_t count = scan(worker.storage, blocks, some, dimension_, worker.survivors.data());
      for (std::size_t i = 0; i < count; ++i) {
        const Survivor& survivor = worker.survivors[i];
        const std::size_t query = first + survivor.query;
        const std::size_t row = span.first * kBlockRows + survivor.row;
        if (row >= chunk.rows()) continue;  // what fills the last block up passes in a forged file alone
        const Place place{span.part, static_cast<std::uint32_t>(row)};
        const auto bounds =
            ranks[query].bounds(survivor.estimate, blocks.error[survivor.row], norms[survivor.row], dimension_);
        Shortlist& list = worker.lists[query];
        // The filter is asked last: it costs more than the comparison.
        if (list.overflowed() || bounds.upper < list.limit() || !matches(queries[query], place, rows)) continue;
        list.add(place, bounds);
        worker.thresholds[query] = ranks[query].threshold(list.limit());
      }
    }
  }

  /// Scores the candidates of a query; false when there are too many.
  bool decide(std::size_t query, Shortlist& list) {
    const auto& candidates = list.candidates();
    if (list.overflowed()) return false;
    Places places;
    for (const auto& candidate : candidates) places.push_back(candidate.place);
    score(query, places);
    finish(found_[query]);
    return true;
  }

  /// Scores items, the largest bound first, until none that is left can be as near as the last hit.
  void score_open(std::size_t query, const std::vector<BoundedPlace>& items) {
    constexpr std::size_t kTogether = 4;  // are scored in the time of one
    const QueryRank rank(metric_, dimension_, norms_[query]);
    Hits& hits = found_[query];
    Places some;
    for (std::size_t next = 0; next < items.size();) {
      if (hits.size() == goal_.count && rank.rules_out(items[next].bound, hits.back().score)) return;
      // An eighth of the hits at a time, so that sorting costs little however many are wanted.
      const std::size_t least = std::max<std::size_t>(hits.empty() ? goal_.count : goal_.count / 8, 1);
      const std::size_t end = std::min(items.size(), next + (least + kTogether - 1) / kTogether * kTogether);
      some.clear();
      for (; next < end; ++next) some.push_back(items[next].place);
      score(query, some);
      finish(hits);
    }
  }

  /// Scores every item.
  void score_all(std::size_t query, const RowSet& rows) {
    constexpr std::size_t kAtOnce = 4096;
    Places some;
    const auto flush = [&] {
      score(query, some);
      some.clear();
      // Seldom, so that sorting costs little however many are wanted.
      if (!goal_.score && found_[query].size() > 2 * goal_.count + kAtOnce) finish(found_[query]);
    };
    for (std::uint32_t part = 0; part < snapshot_.parts().size(); ++part)
      for (std::uint32_t row = 0; row < snapshot_.parts()[part].chunk->rows(); ++row) {
        if (matches(query, {part, row}, rows)) some.push_back({part, row});
        if (some.size() == kAtOnce) flush();
      }
    flush();
    finish(found_[query]);
  }

  /// Adds the hits among these items.
  void score(std::size_t query, const Places& places) {
    counters_.rescored += static_cast<std::int64_t>(places.size());
    for_each_score(snapshot_, values(query), norms_[query], places, [&](std::size_t i, double score) {
      // Vectors are checked when they are added; only a forged file has others.
      if (!std::isfinite(score))
        fail(ErrorCode::kFormat, function_, "vectors", "finite values and, under cosine, no zero vector", score);
      if (goal_.score && (metric_ == Metric::kL2 ? score > *goal_.score : score < *goal_.score)) return;
      found_[query].push_back({snapshot_.parts()[places[i].part].chunk->ids()[places[i].row], score});
    });
  }

  /// Sorts hits and drops those beyond the goal.
  void finish(Hits& hits) const {
    const std::size_t wanted = goal_.score ? hits.size() : std::min(goal_.count, hits.size());
    const auto kept = hits.begin() + static_cast<std::ptrdiff_t>(wanted);
    std::partial_sort(hits.begin(), kept, hits.end(), Nearer{metric_});
    hits.erase(kept, hits.end());
  }

  const Snapshot& snapshot_;
  Metric metric_;
  std::size_t dimension_;
  const char* function_;
  const RowMatrixRef& queries_;
  SearchGoal goal_;
  std::vector<double> norms_;
  std::size_t threads_;
  std::size_t most_;
  std::vector<SnapshotFilter> filters_;  ///< one for all queries or one for each
  std::vector<Hits> found_;
  Counters counters_;
};

}  // namespace

std::vector<Hits> exact_search(const Snapshot& snapshot, const RowMatrixRef& queries, const SearchGoal& goal,
                               const std::vector<Filter>& filters, const SearchOptions& options, const char* function) {
  options.validate();
  if (!options.fingerprint.empty()) snapshot.require_encoder(options.fingerprint, function);
  Search search(snapshot, queries, snapshot.checked_norms(queries, function, "queries"), goal, filters, options,
                function);
  auto found = search.run();
  if (options.stats) search.count(*options.stats);
  return found;
}

std::vector<Hits> nearest_of(const Snapshot& snapshot, const RowMatrixRef& queries, std::vector<double> norms,
                             const std::vector<std::vector<BoundedPlace>>& items, std::size_t count,
                             const SearchOptions& options, const char* function) {
  Search search(snapshot, queries, std::move(norms), {.count = count}, {}, options, function);
  auto found = search.run(items);
  if (options.stats) search.count(*options.stats);
  return found;
}

}  // namespace daug::detail
