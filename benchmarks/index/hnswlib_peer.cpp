// Compiled with -march=native; so nothing that others compile as well, Eigen above all, may be included here.

#include "index/hnswlib_peer.h"

#include <hnswlib/hnswlib.h>

#include <algorithm>
#include <atomic>
#include <thread>

#if __has_include(<hnswlib/stop_condition.h>)
#define DAUG_HNSWLIB_FILTERS 1
#else
#define DAUG_HNSWLIB_FILTERS 0
#endif

namespace daug::bench {

struct HnswlibPeer::Implementation {
  Implementation(std::size_t items, std::size_t dimension, std::size_t links, std::size_t breadth)
      : space(dimension), graph(&space, items, links, breadth) {}
  hnswlib::InnerProductSpace space;
  hnswlib::HierarchicalNSW<float> graph;
};

HnswlibPeer::HnswlibPeer(const float* vectors, std::size_t items, std::size_t dimension, std::size_t links,
                         std::size_t breadth, std::size_t threads)
    : implementation_(std::make_unique<Implementation>(items, dimension, links, breadth)) {
  std::atomic<std::size_t> next{0};
  const auto add = [&] {
    for (std::size_t i = next++; i < items; i = next++) implementation_->graph.addPoint(vectors + i * dimension, i);
  };
  std::vector<std::thread> others;
  for (std::size_t thread = 1; thread < threads; ++thread) others.emplace_back(add);
  add();
  for (auto& thread : others) thread.join();
}

HnswlibPeer::~HnswlibPeer() = default;

void HnswlibPeer::set_breadth(std::size_t breadth) { implementation_->graph.setEf(breadth); }

std::vector<std::size_t> HnswlibPeer::nearest(const float* query, std::size_t count,
                                              const std::vector<std::uint8_t>* allowed) const {
#if DAUG_HNSWLIB_FILTERS
  struct Allowed : hnswlib::BaseFilterFunctor {
    explicit Allowed(const std::uint8_t* items_) : items(items_) {}
    bool operator()(hnswlib::labeltype number) override { return items[number] != 0; }
    const std::uint8_t* items;
  } filter(allowed ? allowed->data() : nullptr);
  auto found = implementation_->graph.searchKnn(query, count, allowed ? &filter : nullptr);
#else
  (void)allowed;
  auto found = implementation_->graph.searchKnn(query, count);
#endif
  std::vector<std::size_t> numbers;
  for (; !found.empty(); found.pop()) numbers.push_back(found.top().second);
  return numbers;
}

bool HnswlibPeer::has_filters() { return DAUG_HNSWLIB_FILTERS != 0; }

std::string HnswlibPeer::arithmetic() {
#if defined(USE_AVX512)
  return "AVX-512";
#elif defined(USE_AVX)
  return "AVX";
#elif defined(USE_SSE)
  return "SSE";
#else
  return "plain";
#endif
}

}  // namespace daug::bench
