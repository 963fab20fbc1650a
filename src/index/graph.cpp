#include "graph.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <mutex>
#include <queue>
#include <stdexcept>
#include <unordered_map>
#include <utility>

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

/// A vector as the graph keeps it: this, and behind it the codes of its components, as many as `code_product` takes.
struct Coded {
  double scale;
  double squares;  ///< the squared norm of codes times scale
};

std::size_t code_count(std::size_t dimension) { return (dimension + kCodeStep - 1) / kCodeStep * kCodeStep; }

/// Distances of coded vectors.
class Space : public hnswlib::SpaceInterface<float> {
 public:
  Space(Metric metric, std::size_t dimension) : metric_(metric), count_(code_count(dimension)) {}
  std::size_t get_data_size() override { return sizeof(Coded) + count_; }
  void* get_dist_func_param() override { return &count_; }
  hnswlib::DISTFUNC<float> get_dist_func() override { return metric_ == Metric::kL2 ? distance : opposite_product; }

 private:
  static Coded head_of(const void* coded) {  // which hnswlib does not align
    Coded head;
    std::memcpy(&head, coded, sizeof head);
    return head;
  }
  static double product(const Coded& a, const void* a_memory, const Coded& b, const void* b_memory, const void* count) {
    const auto codes = [](const void* memory) { return static_cast<const std::int8_t*>(memory) + sizeof(Coded); };
    return a.scale * b.scale * code_product(codes(a_memory), codes(b_memory), *static_cast<const std::size_t*>(count));
  }
  /// Products of floats always fit into double, but not always into float.
  static float as_float(double value) {
    constexpr double kMost = std::numeric_limits<float>::max();
    return static_cast<float>(std::clamp(value, -kMost, kMost));
  }
  static float distance(const void* a, const void* b, const void* count) {
    const Coded first = head_of(a), second = head_of(b);
    return as_float(first.squares + second.squares - 2 * product(first, a, second, b, count));
  }
  static float opposite_product(const void* a, const void* b, const void* count) {
    return as_float(1 - product(head_of(a), a, head_of(b), b, count));
  }

  Metric metric_;
  std::size_t count_;
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

std::vector<std::byte> coded(const float* values, const IndexSettings& settings) {
  const auto vector = prepared(values, settings);
  float largest = 0;
  for (const float value : vector) largest = std::max(largest, std::abs(value));
  // Sums of products have to fit into int32.
  const double largest_code = std::min(127.0, std::floor(std::sqrt(0x1p31 / static_cast<double>(vector.size())) - 1));
  Coded head{static_cast<double>(largest) / largest_code, 0};
  std::vector<std::byte> memory(sizeof head + code_count(vector.size()));
  for (std::size_t i = 0; i < vector.size() && largest > 0; ++i) {
    const auto code = static_cast<std::int8_t>(std::nearbyint(static_cast<double>(vector[i]) / head.scale));
    memory[sizeof head + i] = static_cast<std::byte>(code);
    head.squares += head.scale * head.scale * (code * code);
  }
  std::memcpy(memory.data(), &head, sizeof head);
  return memory;
}

using Hnsw = hnswlib::HierarchicalNSW<float>;
using Number = hnswlib::tableint;
using Near = std::pair<float, Number>;

/// The items that an item is linked with on a level.
class Links {
 public:
  Links(const Hnsw& graph, hnswlib::linklistsizeint* list)
      : begin_(list + 1), end_(begin_ + graph.getListCount(list)) {}
  const Number* begin() const { return begin_; }
  const Number* end() const { return end_; }

 private:
  const Number* begin_;
  const Number* end_;
};

/// Which items a walk has come by. Lists are lent by the graph's pool.
class Visited {
 public:
  explicit Visited(hnswlib::VisitedListPool& pool) : pool_(pool), list_(pool.getFreeVisitedList()) {}
  ~Visited() { pool_.releaseVisitedList(list_); }
  Visited(const Visited&) = delete;
  Visited& operator=(const Visited&) = delete;
  bool first_time(Number item) { return std::exchange(list_->mass[item], list_->curV) != list_->curV; }

 private:
  hnswlib::VisitedListPool& pool_;
  hnswlib::VisitedList* list_;
};

/// Asks for memory that is soon read; what is long the processor goes on with by itself.
void prefetch(const void* memory, std::size_t size) {
  constexpr std::size_t kLine = 64, kMost = 16 * kLine;
  for (std::size_t at = 0; at < std::min(size, kMost); at += kLine)
    __builtin_prefetch(static_cast<const char*>(memory) + at);
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
  Hnsw graph;
};

Graph::Graph(const Snapshot& snapshot, const GraphOptions& options) try {
  auto built = std::make_unique<Implementation>(snapshot.settings(), snapshot.size(), options);
  std::vector<Place> places;
  for (std::uint32_t part = 0; part < snapshot.parts().size(); ++part) {
    const auto& chunk = snapshot.parts()[part].chunk;
    chunks_[chunk->serial()] = chunk;
    for (std::uint32_t row = 0; row < chunk->rows(); ++row)
      if (snapshot.parts()[part].has(row)) {
        places.push_back({part, row});
        items_.push_back({chunk->ids()[row], chunk->serial(), row});
      }
  }
  const auto add = [&](std::size_t i) {
    const Chunk& chunk = *snapshot.parts()[places[i].part].chunk;
    built->graph.addPoint(coded(chunk.values(places[i].row), built->settings).data(), i);
  };
  add(0);  // there must be one to start from
  const std::size_t threads = thread_count(options.threads);
  for_each_task(places.size() - 1, threads, [&](std::size_t, std::size_t i) { add(i + 1); });
  implementation_ = std::move(built);
} catch (const Error&) {
  throw;
} catch (const std::runtime_error& error) {  // of hnswlib, which has run out of memory
  fail(ErrorCode::kUnsupported, "RetrievalIndex::build_graph", "index", "as many items as a graph can be made of here",
       error.what());
}

Graph::~Graph() = default;

// hnswlib's own search compares one linked item after the other and waits for the memory of each.
std::vector<std::size_t> Graph::nearest(const float* query, std::size_t count) const {
  const auto& graph = implementation_->graph;
  const auto vector = coded(query, implementation_->settings);
  const auto distance = [&](Number item) {
    return graph.fstdistfunc_(vector.data(), graph.getDataByInternalId(item), graph.dist_func_param_);
  };
  Near start{distance(graph.enterpoint_node_), graph.enterpoint_node_};
  for (int level = graph.maxlevel_; level > 0; --level)
    for (bool nearer = true; nearer;) {
      nearer = false;
      const Links links(graph, graph.get_linklist(start.second, level));
      for (const Number item : links) {
        const Near other{distance(item), item};
        if (other.first < start.first) start = other, nearer = true;
      }
    }

  Visited visited(*graph.visited_list_pool_);
  visited.first_time(start.second);
  std::priority_queue<Near, std::vector<Near>, std::greater<>> open;  // whose links are to be followed, nearest first
  std::priority_queue<Near> found;                                    // farthest first
  open.push(start);
  found.push(start);
  std::vector<Number> seen_first;
  while (!open.empty() && open.top().first <= found.top().first) {
    const Links links(graph, graph.get_linklist0(open.top().second));
    open.pop();
    seen_first.clear();
    for (const Number item : links)
      if (visited.first_time(item)) {
        prefetch(graph.getDataByInternalId(item), graph.data_size_);
        seen_first.push_back(item);
      }
    for (const Number item : seen_first) {
      const Near other{distance(item), item};
      if (found.size() >= count && other.first >= found.top().first) continue;
      open.push(other);
      found.push(other);
      if (found.size() > count) found.pop();
    }
    if (!open.empty()) prefetch(graph.get_linklist0(open.top().second), graph.offsetData_);
  }
  std::vector<std::size_t> numbers;
  for (; !found.empty(); found.pop()) numbers.push_back(graph.getExternalLabel(found.top().second));
  return numbers;
}

void Graph::write(const ByteSink& sink) const {
  // The library's own function does not notice a full disk.
  const auto& graph = implementation_->graph;
  const IndexSettings& settings = implementation_->settings;
  const std::size_t label_offset = graph.offsetData_ + settings.components() * sizeof(float);
  put(sink, graph.offsetLevel0_);
  put(sink, graph.max_elements_);
  put(sink, graph.cur_element_count);
  put(sink, label_offset + sizeof(hnswlib::labeltype));
  put(sink, label_offset);
  put(sink, graph.offsetData_);
  put(sink, graph.maxlevel_);
  put(sink, graph.enterpoint_node_);
  put(sink, graph.maxM_);
  put(sink, graph.maxM0_);
  put(sink, graph.M_);
  put(sink, graph.mult_);
  put(sink, graph.ef_construction_);
  for (std::size_t i = 0; i < graph.cur_element_count; ++i) {  // an item's links, vector and label
    const Item& item = items_[graph.getExternalLabel(static_cast<unsigned>(i))];
    const auto vector = prepared(chunks_.at(item.chunk)->values(item.row), settings);
    sink(graph.data_level0_memory_ + i * graph.size_data_per_element_, graph.offsetData_);
    sink(vector.data(), vector.size() * sizeof(float));
    put(sink, static_cast<hnswlib::labeltype>(item.id));
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
