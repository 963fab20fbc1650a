#include "graph.h"

#include <algorithm>
#include <cmath>
#include <mutex>
#include <stdexcept>
#include <thread>
#include <unordered_map>

// Its own vector code is chosen by the compiler's flags and brings functions in the global namespace; its prefetches
// read behind short lists.
#define NO_MANUAL_VECTORIZATION
// A name of our own for its namespace: a program that includes hnswlib as well, with other switches, has other inline
// functions of the same names, and the linker would keep one of the two for both.
#define hnswlib daug_hnswlib
#include <hnswlib/hnswlib.h>

#include "daug/core/error.h"
#include "daug/core/parallel.h"
#include "distance_kernel.h"

namespace daug::detail {
namespace {

class Space : public hnswlib::SpaceInterface<float> {
 public:
  Space(Metric metric, std::size_t dimension) : metric_(metric), dimension_(dimension) {}
  std::size_t get_data_size() override { return dimension_ * sizeof(float); }
  void* get_dist_func_param() override { return &dimension_; }
  hnswlib::DISTFUNC<float> get_dist_func() override { return metric_ == Metric::kL2 ? distance : opposite_product; }

 private:
  static std::size_t size_of(const void* parameter) { return *static_cast<const std::size_t*>(parameter); }
  static float distance(const void* a, const void* b, const void* size) {
    return squared_distance(static_cast<const float*>(a), static_cast<const float*>(b), size_of(size));
  }
  static float opposite_product(const void* a, const void* b, const void* size) {
    return 1 - dot_product(static_cast<const float*>(a), static_cast<const float*>(b), size_of(size));
  }

  Metric metric_;
  std::size_t dimension_;
};

/// What distances are taken of: under cosine a vector of length 1.
std::vector<float> prepared(const float* values, const IndexSettings& settings) {
  std::vector<float> vector(values, values + settings.components());
  if (settings.metric != Metric::kCosine) return vector;
  double squares = 0;
  for (const float value : vector) squares += static_cast<double>(value) * static_cast<double>(value);
  for (auto& value : vector) value = static_cast<float>(value / std::sqrt(squares));
  return vector;
}

template <class T>
void put(const ByteSink& sink, const T& value) {
  sink(&value, sizeof value);
}

}  // namespace

struct Graph::Implementation {
  Implementation(const IndexSettings& settings_, std::size_t items, const GraphOptions& options)
      : settings(settings_),
        space(settings.metric, settings.components()),
        graph(&space, items, static_cast<std::size_t>(options.links), static_cast<std::size_t>(options.breadth)) {}

  IndexSettings settings;
  Space space;
  hnswlib::HierarchicalNSW<float> graph;
};

Graph::Graph(const Snapshot& snapshot, const GraphOptions& options) try {
  auto built = std::make_unique<Implementation>(snapshot.settings(), snapshot.size(), options);
  std::vector<Place> places;
  for (std::uint32_t part = 0; part < snapshot.parts().size(); ++part)
    for (std::uint32_t row = 0; row < snapshot.parts()[part].chunk->rows(); ++row)
      if (snapshot.parts()[part].has(row)) {
        const Chunk& chunk = *snapshot.parts()[part].chunk;
        places.push_back({part, row});
        items_.push_back({chunk.ids()[row], chunk.serial(), row});
      }
  const auto add = [&](std::size_t i) {
    const Chunk& chunk = *snapshot.parts()[places[i].part].chunk;
    built->graph.addPoint(prepared(chunk.values(places[i].row), built->settings).data(), i);
  };
  add(0);  // there must be one to start from
  const auto threads = options.threads > 0 ? static_cast<std::size_t>(options.threads)
                                           : std::max<std::size_t>(1, std::thread::hardware_concurrency());
  for_each_task(places.size() - 1, threads, [&](std::size_t, std::size_t i) { add(i + 1); });
  implementation_ = std::move(built);
} catch (const Error&) {
  throw;
} catch (const std::runtime_error& error) {  // of hnswlib, which has run out of memory
  fail(ErrorCode::kUnsupported, "RetrievalIndex::build_graph", "index", "as many items as a graph can be made of here",
       error.what());
}

Graph::~Graph() = default;

std::vector<std::size_t> Graph::nearest(const float* query, std::size_t count) const {
  const auto vector = prepared(query, implementation_->settings);
  auto found = implementation_->graph.searchKnn(vector.data(), std::min(count, size()));
  std::vector<std::size_t> numbers;
  for (; !found.empty(); found.pop()) numbers.push_back(found.top().second);
  return numbers;
}

void Graph::write(const ByteSink& sink) const {
  // The library's own function does not notice a full disk.
  const auto& graph = implementation_->graph;
  put(sink, graph.offsetLevel0_);
  put(sink, graph.max_elements_);
  put(sink, graph.cur_element_count);
  put(sink, graph.size_data_per_element_);
  put(sink, graph.label_offset_);
  put(sink, graph.offsetData_);
  put(sink, graph.maxlevel_);
  put(sink, graph.enterpoint_node_);
  put(sink, graph.maxM_);
  put(sink, graph.maxM0_);
  put(sink, graph.M_);
  put(sink, graph.mult_);
  put(sink, graph.ef_construction_);
  for (std::size_t i = 0; i < graph.cur_element_count; ++i) {  // an item's label comes last
    const char* element = graph.data_level0_memory_ + i * graph.size_data_per_element_;
    sink(element, graph.label_offset_);
    put(sink, static_cast<hnswlib::labeltype>(items_[graph.getExternalLabel(static_cast<unsigned>(i))].id));
  }
  for (std::size_t i = 0; i < graph.cur_element_count; ++i) {
    const auto levels = graph.element_levels_[i];
    const auto bytes =
        levels > 0 ? static_cast<unsigned>(graph.size_links_per_element_) * static_cast<unsigned>(levels) : 0U;
    put(sink, bytes);
    if (bytes) sink(graph.linkLists_[i], bytes);
  }
}

}  // namespace daug::detail
