// Approximate search of 100k x 512 clustered unit vectors, ten nearest, cosine, 2 threads, without and with a filter:
// queries a second and the share of the exact ten that was found, beside hnswlib compiled for this processor. Queries
// are vectors of their own, not stored ones.

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <map>
#include <numeric>
#include <optional>
#include <string>
#include <vector>

#include "daug/core/parallel.h"
#include "daug/core/random.h"
#include "daug/index/retrieval_index.h"
#include "index/hnswlib_peer.h"
#include "index/rows.h"
#include "support/context.h"

namespace {

constexpr std::int64_t kItems = 100'000;
constexpr std::int64_t kDimension = 512;
constexpr std::int64_t kNearest = 10;
constexpr std::int64_t kQueries = 1000;
constexpr int kThreads = 2;
constexpr int kLinks = 16;
constexpr int kBuildBreadth = 200;

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

/// Everything that both sides search, made when it is first needed.
struct Problem {
  daug::RowMatrix items = daug::bench::clustered_rows(kItems, kDimension, 4);
  daug::RowMatrix queries = daug::bench::clustered_rows(kQueries, kDimension, 6);
  std::map<std::string, std::vector<std::uint8_t>> tagged;  ///< by tag and item
  daug::RetrievalIndex index{kDimension, daug::Metric::kCosine};
  std::optional<daug::bench::HnswlibPeer> peer;
  double build_seconds = 0, peer_build_seconds = 0;

  Problem() {
    std::vector<std::int64_t> ids(static_cast<std::size_t>(kItems));
    std::iota(ids.begin(), ids.end(), 0);
    std::vector<daug::Metadata> metadata(ids.size());
    daug::RandomStream stream(3, 0, "bench graph");
    const std::pair<const char*, double> tags[] = {{"50%", 0.5}, {"10%", 0.1}, {"1%", 0.01}, {"0.1%", 0.001}};
    for (const auto& [tag, share] : tags) tagged[tag].resize(ids.size());
    for (std::size_t i = 0; i < ids.size(); ++i) {
      const double place = stream.uniform();
      for (const auto& [tag, share] : tags)
        if (place < share) metadata[i][tag] = "yes", tagged[tag][i] = 1;
    }
    index.add(ids, items, metadata);
    auto start = std::chrono::steady_clock::now();
    index.build_graph({.links = kLinks, .breadth = kBuildBreadth, .threads = kThreads});
    build_seconds = seconds_since(start);
    start = std::chrono::steady_clock::now();
    peer.emplace(items.data(), ids.size(), static_cast<std::size_t>(kDimension), static_cast<std::size_t>(kLinks),
                 static_cast<std::size_t>(kBuildBreadth), static_cast<std::size_t>(kThreads));
    peer_build_seconds = seconds_since(start);
  }

  /// The exact answers.
  const std::vector<daug::Hits>& truth(const std::string& tag) {
    auto& kept = truths_[tag];
    if (kept.empty()) kept = index.search(queries, kNearest, filter(tag), {.threads = kThreads});
    return kept;
  }
  static daug::Filter filter(const std::string& tag) {
    return tag.empty() ? daug::Filter() : daug::Filter::equals(tag, "yes");
  }

 private:
  std::map<std::string, std::vector<daug::Hits>> truths_;
};

Problem& problem() {
  static Problem made;
  return made;
}

/// Times `search()`, which answers all queries and returns how many of `truth` it found.
template <class Search>
void run(benchmark::State& state, const std::vector<daug::Hits>& truth, const Search& search) {
  std::int64_t found = 0;
  for (auto _ : state) found = search();
  std::size_t all = 0;
  for (const auto& hits : truth) all += hits.size();
  state.SetItemsProcessed(state.iterations() * kQueries);
  state.counters["recall"] = static_cast<double>(found) / static_cast<double>(all);
}

bool has(const daug::Hits& hits, std::int64_t id) {
  return std::any_of(hits.begin(), hits.end(), [id](const daug::Hit& hit) { return hit.id == id; });
}

void ours(benchmark::State& state, const std::string& tag) {
  Problem& p = problem();
  const auto& truth = p.truth(tag);
  const auto filter = Problem::filter(tag);
  daug::SearchStats stats;
  const daug::SearchOptions options{.threads = kThreads, .breadth = static_cast<int>(state.range(0)), .stats = &stats};
  run(state, truth, [&] {
    const auto hits = p.index.search(p.queries, kNearest, filter, options);
    std::int64_t found = 0;
    for (std::size_t q = 0; q < hits.size(); ++q)
      for (const auto& hit : hits[q]) found += has(truth[q], hit.id);
    return found;
  });
  state.counters["by_graph"] = static_cast<double>(stats.graph_queries) / static_cast<double>(stats.queries);
  state.counters["build_s"] = p.build_seconds;
}

void hnswlib(benchmark::State& state, const std::string& tag) {
  Problem& p = problem();
  if (!tag.empty() && !daug::bench::HnswlibPeer::has_filters())
    return state.SkipWithError("this hnswlib has no filters: DAUG_PEER_HNSWLIB, see benchmarks/README.md");
  const auto& truth = p.truth(tag);
  const auto* allowed = tag.empty() ? nullptr : &p.tagged.at(tag);
  p.peer->set_breadth(static_cast<std::size_t>(state.range(0)));
  run(state, truth, [&] {
    std::atomic<std::int64_t> found{0};
    daug::detail::for_each_task(static_cast<std::size_t>(kQueries), kThreads, [&](std::size_t, std::size_t q) {
      const float* query = p.queries.data() + static_cast<std::int64_t>(q) * kDimension;
      for (const auto number : p.peer->nearest(query, kNearest, allowed))
        found += has(truth[q], static_cast<std::int64_t>(number));
    });
    return found.load();
  });
  state.counters["build_s"] = p.peer_build_seconds;
}

}  // namespace

int main(int argc, char** argv) {
  for (const char* tag : {"", "50%", "10%", "1%", "0.1%"}) {
    const std::string name = *tag ? std::string("filtered/") + tag : "approximate";
    const auto configure = [&](auto* bench) {
      // hnswlib walks most of the graph under a filter that few items pass: minutes for a thousand queries.
      for (const int breadth : {32, 64, 128, 256, 512, 1024})
        if (breadth <= 128 || !*tag) bench->Arg(breadth);
      bench->ArgName("breadth")->UseRealTime()->Unit(benchmark::kMillisecond);
    };
    configure(benchmark::RegisterBenchmark((name + "/ours").c_str(), ours, std::string(tag)));
    configure(benchmark::RegisterBenchmark((name + "/hnswlib").c_str(), hnswlib, std::string(tag)));
  }
  daug::bench::add_context();
  benchmark::AddCustomContext("search_instruction_set", daug::search_instruction_set());
  benchmark::AddCustomContext("hnswlib_arithmetic", daug::bench::HnswlibPeer::arithmetic());
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  benchmark::RunSpecifiedBenchmarks();
}
