#include "daug/index/retrieval_index.h"

#include <cmath>
#include <optional>
#include <utility>

#include "approximate_search.h"
#include "changes.h"
#include "daug/core/error.h"
#include "daug/io/file.h"
#include "daug/io/fingerprint.h"
#include "daug/io/random_access_file.h"
#include "exact_search.h"
#include "graph.h"
#include "index_file.h"
#include "index_state.h"
#include "verify.h"

namespace daug {
namespace {

constexpr char kSearch[] = "RetrievalIndex::search";

std::size_t checked_count(std::int64_t k, std::size_t items) {
  const auto size = static_cast<std::int64_t>(items);
  require(k >= 1 && k <= size, kSearch, "k", detail::concat("a value in [1, ", size, "], the size of the index"), k);
  return static_cast<std::size_t>(k);
}

std::vector<Hits> nearest(const detail::Snapshot& snapshot, const RowMatrixRef& queries, std::size_t count,
                          const std::vector<Filter>& filters, const SearchOptions& options) {
  if (options.breadth != 0) return detail::approximate_search(snapshot, queries, count, filters, options, kSearch);
  return detail::exact_search(snapshot, queries, {.count = count}, filters, options, kSearch);
}

}  // namespace

const char* metric_name(Metric metric) {
  switch (metric) {
    case Metric::kCosine:
      return "cosine";
    case Metric::kInnerProduct:
      return "inner_product";
    case Metric::kL2:
      return "l2";
  }
  fail(ErrorCode::kInvalidArgument, "metric_name", "metric", "a Metric", static_cast<int>(metric));
}

const char* storage_name(Storage storage) {
  switch (storage) {
    case Storage::kFloat32:
      return "float32";
    case Storage::kFloat16:
      return "float16";
    case Storage::kBFloat16:
      return "bfloat16";
    case Storage::kInt8:
      return "int8";
  }
  fail(ErrorCode::kInvalidArgument, "storage_name", "storage", "a Storage", static_cast<int>(storage));
}

void IndexOptions::validate() const { (void)storage_name(storage); }

void GraphOptions::validate() const {
  require_range(links, 2, 256, "GraphOptions", "links");
  require_range(breadth, 2, 100'000, "GraphOptions", "breadth");
  require_range(threads, 0, 1024, "GraphOptions", "threads");
}

void SearchOptions::validate() const {
  require_range(threads, 0, 1024, "SearchOptions", "threads");
  require_range(breadth, 0, 1'000'000, "SearchOptions", "breadth");
  require(max_candidates >= 1, "SearchOptions", "max_candidates", "at least 1", max_candidates);
}

const char* search_instruction_set() { return detail::scan_target(); }

RetrievalIndex::RetrievalIndex(std::int64_t dimension, Metric metric, std::string fingerprint,
                               const IndexOptions& options) {
  require_range(dimension, 1, detail::kLargestDimension, "RetrievalIndex", "dimension");
  (void)metric_name(metric);  // refuses a value outside the enumeration
  options.validate();
  const detail::IndexSettings settings{dimension, metric, std::move(fingerprint), options};
  *this =
      RetrievalIndex(std::make_shared<const detail::Snapshot>(std::make_shared<const detail::IndexSettings>(settings)));
}

RetrievalIndex::RetrievalIndex(std::shared_ptr<const detail::Snapshot> snapshot)
    : state_(std::make_unique<detail::IndexState>(std::move(snapshot))) {}
RetrievalIndex::RetrievalIndex(const RetrievalIndex& other) : RetrievalIndex(other.state_->snapshot()) {}
RetrievalIndex::RetrievalIndex(RetrievalIndex&& other) noexcept = default;
RetrievalIndex& RetrievalIndex::operator=(const RetrievalIndex& other) { return *this = RetrievalIndex(other); }
RetrievalIndex& RetrievalIndex::operator=(RetrievalIndex&& other) noexcept = default;
RetrievalIndex::~RetrievalIndex() = default;

void RetrievalIndex::add(const std::vector<std::int64_t>& ids, const RowMatrixRef& vectors,
                         const std::vector<Metadata>& metadata) {
  state_->change(
      [&](detail::Snapshot& next) { detail::add_items(next, ids, vectors, metadata, "RetrievalIndex::add"); });
}

std::int64_t RetrievalIndex::id_of(const std::string& name) {
  return static_cast<std::int64_t>(checksum64(name.data(), name.size()));
}

void RetrievalIndex::add_named(const std::vector<std::string>& names, const RowMatrixRef& vectors,
                               const std::vector<Metadata>& metadata) {
  const auto items = detail::named_items(names, vectors, metadata, "RetrievalIndex::add_named");
  add(items.ids, vectors, items.metadata);
}

std::string RetrievalIndex::name(std::int64_t id) const {
  const auto texts = metadata(id);
  const auto found = texts.find("name");
  if (found == texts.end()) fail(ErrorCode::kNotFound, "RetrievalIndex::name", "id", "an item with a name", id);
  return found->second;
}

void RetrievalIndex::update(const std::vector<std::int64_t>& ids, const RowMatrixRef& vectors,
                            const std::vector<Metadata>& metadata) {
  state_->change(
      [&](detail::Snapshot& next) { detail::update_items(next, ids, vectors, metadata, "RetrievalIndex::update"); });
}

void RetrievalIndex::remove(const std::vector<std::int64_t>& ids) {
  state_->change([&](detail::Snapshot& next) { detail::remove_items(next, ids, "RetrievalIndex::remove"); });
}

void RetrievalIndex::compact() {
  state_->change([](detail::Snapshot& next) { next.tidy(true); });
}

void RetrievalIndex::build_graph(const GraphOptions& options) {
  options.validate();
  const auto snapshot = state_->snapshot();
  require(snapshot->size() > 0, "RetrievalIndex::build_graph", "index", "at least one item", 0);
  const auto graph = std::make_shared<const detail::Graph>(*snapshot, options);
  state_->change([&](detail::Snapshot& next) { next.set_graph(graph, *snapshot); });
}

void RetrievalIndex::export_hnswlib(const std::string& path) const {
  const auto snapshot = state_->snapshot();
  require(snapshot->graph() != nullptr, "RetrievalIndex::export_hnswlib", "index", "a graph (build_graph)", "none");
  write_file_atomically(path, [&](const ByteSink& sink) { snapshot->graph()->write(sink); });
}

std::vector<Hits> RetrievalIndex::search(const RowMatrixRef& queries, std::int64_t k, const Filter& filter,
                                         const SearchOptions& options) const {
  const auto snapshot = state_->snapshot();
  const auto count = checked_count(k, snapshot->size());
  return nearest(*snapshot, queries, count, {filter}, options);
}

std::vector<Hits> RetrievalIndex::search(const RowMatrixRef& queries, std::int64_t k,
                                         const std::vector<Filter>& filters, const SearchOptions& options) const {
  const auto snapshot = state_->snapshot();
  const auto count = checked_count(k, snapshot->size());
  if (filters.size() != static_cast<std::size_t>(queries.rows()))
    fail(ErrorCode::kMismatch, kSearch, "filters", detail::concat(queries.rows(), ", one a query"), filters.size());
  return nearest(*snapshot, queries, count, filters, options);
}

std::vector<Hits> RetrievalIndex::search_range(const RowMatrixRef& queries, double score, const Filter& filter,
                                               const SearchOptions& options) const {
  constexpr char kFunction[] = "RetrievalIndex::search_range";
  require(std::isfinite(score), kFunction, "score", "a finite number", score);
  return detail::exact_search(*state_->snapshot(), queries, {.score = score}, {filter}, options, kFunction);
}

std::int64_t RetrievalIndex::size() const { return static_cast<std::int64_t>(state_->snapshot()->size()); }
std::int64_t RetrievalIndex::dimension() const { return settings().dimension; }
Metric RetrievalIndex::metric() const { return settings().metric; }
const IndexOptions& RetrievalIndex::options() const { return settings().options; }
const std::string& RetrievalIndex::fingerprint() const { return settings().fingerprint; }

const detail::IndexSettings& RetrievalIndex::settings() const { return state_->settings(); }

std::vector<std::int64_t> RetrievalIndex::ids() const {
  std::vector<std::int64_t> ids;
  for (const auto& part : state_->snapshot()->parts())
    for (std::size_t row = 0; row < part.chunk->rows(); ++row)
      if (part.has(row)) ids.push_back(part.chunk->ids()[row]);
  return ids;
}

bool RetrievalIndex::contains(std::int64_t id) const { return state_->snapshot()->find(id).has_value(); }

Metadata RetrievalIndex::metadata(std::int64_t id) const {
  const auto snapshot = state_->snapshot();
  const auto [part, row] = snapshot->require_id(id, "RetrievalIndex::metadata");
  return snapshot->parts()[part].chunk->table().get(row);
}

Eigen::RowVectorXf RetrievalIndex::vector(std::int64_t id) const {
  const auto snapshot = state_->snapshot();
  const auto [part, row] = snapshot->require_id(id, "RetrievalIndex::vector");
  return Eigen::Map<const Eigen::RowVectorXf>(snapshot->parts()[part].chunk->values(row),
                                              snapshot->settings().dimension);
}

void RetrievalIndex::save(const std::string& path) const {
  std::optional<FileLock> lock;
  try {
    lock.emplace(detail::lock_path(path), FileLock::Kind::kShared);
  } catch (const Error& error) {
    if (error.code() == ErrorCode::kBusy)
      fail(ErrorCode::kBusy, "RetrievalIndex::save", path, "a file without a writer",
           "one that an IndexWriter changes");
    // Where no lock can be had there is no writer either, and writing says itself what is wrong.
  }
  detail::write_index(path, *state_->snapshot());
}

namespace {
std::shared_ptr<const detail::Snapshot> share(detail::Snapshot snapshot) {
  return std::make_shared<const detail::Snapshot>(std::move(snapshot));
}
}  // namespace

RetrievalIndex RetrievalIndex::load(const std::string& path) {
  return RetrievalIndex(share(detail::open_index(path, nullptr)));
}

RetrievalIndex RetrievalIndex::load(const std::string& path, const IndexOptions& options) {
  return RetrievalIndex(share(detail::open_index(path, &options)));
}

RetrievalIndex RetrievalIndex::parse(const void* data, std::size_t size, const std::string& name) {
  return RetrievalIndex(share(detail::parse_index({static_cast<const char*>(data), size}, name)));
}

IndexCheck RetrievalIndex::verify(std::int64_t sample, const SearchOptions& options) const {
  const auto snapshot = state_->snapshot();
  auto check = detail::verify_snapshot(*snapshot);
  if (sample != 0) check.recall = detail::measured_recall(*snapshot, sample, options);
  return check;
}

void RetrievalIndex::require_fingerprint(const std::string& expected) const {
  state_->snapshot()->require_encoder(expected, "RetrievalIndex::require_fingerprint");
}

}  // namespace daug
