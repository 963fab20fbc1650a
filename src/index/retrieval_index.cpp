#include "daug/index/retrieval_index.h"

#include <algorithm>
#include <cmath>
#include <unordered_set>
#include <utility>

#include "daug/core/error.h"
#include "daug/io/fingerprint.h"
#include "exact_search.h"
#include "index_state.h"

namespace daug {
namespace {

constexpr std::int64_t kLargestDimension = std::int64_t{1} << 20;
constexpr char kName[] = "name";
constexpr char kSearch[] = "RetrievalIndex::search";

void require_sizes(std::size_t count, const RowMatrixRef& vectors, const std::vector<Metadata>& metadata,
                   const char* function) {
  if (static_cast<std::size_t>(vectors.rows()) != count)
    fail(ErrorCode::kMismatch, function, "vectors", detail::concat(count, " rows, one an id"), vectors.rows());
  if (!metadata.empty() && metadata.size() != count)
    fail(ErrorCode::kMismatch, function, "metadata", detail::concat(count, " entries or none"), metadata.size());
}

std::size_t checked_count(std::int64_t k, std::int64_t size) {
  require(k >= 1 && k <= size, kSearch, "k", detail::concat("a value in [1, ", size, "], the size of the index"), k);
  return static_cast<std::size_t>(k);
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

void SearchOptions::validate() const {
  require_range(threads, 0, 1024, "SearchOptions", "threads");
  require(max_candidates >= 1, "SearchOptions", "max_candidates", "at least 1", max_candidates);
}

const char* search_instruction_set() { return detail::scan_target(); }

RetrievalIndex::RetrievalIndex(std::int64_t dimension, Metric metric, std::string fingerprint,
                               const IndexOptions& options) {
  require_range(dimension, 1, kLargestDimension, "RetrievalIndex", "dimension");
  (void)metric_name(metric);  // refuses a value outside the enumeration
  options.validate();
  state_ = std::make_unique<detail::IndexState>(dimension, metric, std::move(fingerprint), options);
}

RetrievalIndex::RetrievalIndex(const RetrievalIndex& other)
    : state_(std::make_unique<detail::IndexState>(*other.state_)) {}
RetrievalIndex::RetrievalIndex(RetrievalIndex&& other) noexcept = default;
RetrievalIndex& RetrievalIndex::operator=(const RetrievalIndex& other) { return *this = RetrievalIndex(other); }
RetrievalIndex& RetrievalIndex::operator=(RetrievalIndex&& other) noexcept = default;
RetrievalIndex::~RetrievalIndex() = default;

void RetrievalIndex::add(const std::vector<std::int64_t>& ids, const RowMatrixRef& vectors,
                         const std::vector<Metadata>& metadata) {
  constexpr char kFunction[] = "RetrievalIndex::add";
  auto& state = *state_;
  const std::size_t count = ids.size();
  require_sizes(count, vectors, metadata, kFunction);
  const auto norms = state.checked_norms(vectors, kFunction, "vectors");

  const std::size_t before = state.size();
  std::size_t registered = 0;
  try {
    for (; registered < count; ++registered)
      if (!state.row_of.emplace(ids[registered], before + registered).second)
        fail(ErrorCode::kInvalidArgument, kFunction, detail::concat("ids[", registered, "]"), "a new id",
             detail::concat(ids[registered], ", which is there already"));
    state.values.resize((before + count) * static_cast<std::size_t>(state.dimension));
    Eigen::Map<RowMatrix>(state.values.data() + before * static_cast<std::size_t>(state.dimension), vectors.rows(),
                          state.dimension) = vectors;
    state.norms.insert(state.norms.end(), norms.begin(), norms.end());
    state.ids.insert(state.ids.end(), ids.begin(), ids.end());
    if (metadata.empty())
      state.metadata.resize(before + count);
    else
      state.metadata.insert(state.metadata.end(), metadata.begin(), metadata.end());
    for (std::size_t i = 0; i < metadata.size(); ++i) state.table.set(before + i, metadata[i]);
    state.scans.reserve(before + count);
  } catch (...) {
    for (std::size_t i = 0; i < registered; ++i) state.row_of.erase(ids[i]);
    state.truncate(before);
    throw;
  }
  for (std::size_t row = before; row < before + count; ++row) state.scans.set(row, state.row(row), state.norms[row]);
}

std::int64_t RetrievalIndex::id_of(const std::string& name) {
  return static_cast<std::int64_t>(checksum64(name.data(), name.size()));
}

void RetrievalIndex::add_named(const std::vector<std::string>& names, const RowMatrixRef& vectors,
                               const std::vector<Metadata>& metadata) {
  constexpr char kFunction[] = "RetrievalIndex::add_named";
  require_sizes(names.size(), vectors, metadata, kFunction);
  std::vector<std::int64_t> ids;
  auto named = metadata.empty() ? std::vector<Metadata>(names.size()) : metadata;
  for (std::size_t i = 0; i < names.size(); ++i) {
    ids.push_back(id_of(names[i]));
    const auto& kept = named[i].emplace(kName, names[i]).first->second;
    if (kept != names[i])
      fail(ErrorCode::kInvalidArgument, kFunction, detail::concat("metadata[", i, "]"),
           "no 'name' or '" + names[i] + "'", "'" + kept + "'");
  }
  add(ids, vectors, named);
}

const std::string& RetrievalIndex::name(std::int64_t id) const {
  const auto& texts = metadata(id);
  const auto found = texts.find(kName);
  if (found == texts.end()) fail(ErrorCode::kNotFound, "RetrievalIndex::name", "id", "an item with a name", id);
  return found->second;
}

void RetrievalIndex::update(const std::vector<std::int64_t>& ids, const RowMatrixRef& vectors,
                            const std::vector<Metadata>& metadata) {
  constexpr char kFunction[] = "RetrievalIndex::update";
  auto& state = *state_;
  require_sizes(ids.size(), vectors, metadata, kFunction);
  const auto norms = state.checked_norms(vectors, kFunction, "vectors");
  std::vector<std::size_t> rows;
  std::unordered_set<std::size_t> seen;
  for (const auto id : ids) {
    rows.push_back(state.row_of_id(id, kFunction));
    require(seen.insert(rows.back()).second, kFunction, "ids", "each id once", detail::concat(id, " twice"));
  }
  auto texts = metadata;
  std::size_t described = 0;
  try {
    for (; described < texts.size(); ++described) state.table.set(rows[described], texts[described]);
  } catch (...) {  // texts that were there before need no memory
    for (std::size_t i = 0; i <= described; ++i) state.table.set(rows[i], state.metadata[rows[i]]);
    throw;
  }
  // Nothing below allocates or throws.
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const std::size_t row = rows[i];
    const auto source = static_cast<Eigen::Index>(i);
    std::copy_n(vectors.data() + source * vectors.outerStride(), state.dimension,
                state.values.begin() + static_cast<std::ptrdiff_t>(row) * state.dimension);
    state.norms[row] = norms[i];
    if (!texts.empty()) state.metadata[row] = std::move(texts[i]);
    state.scans.set(row, state.row(row), norms[i]);
  }
}

void RetrievalIndex::remove(const std::vector<std::int64_t>& ids) {
  auto& state = *state_;
  std::vector<bool> doomed(state.size());
  for (const std::int64_t id : ids) {
    const std::size_t row = state.row_of_id(id, "RetrievalIndex::remove");
    if (doomed[row])
      fail(ErrorCode::kNotFound, "RetrievalIndex::remove", "ids", "each id once", detail::concat(id, " twice"));
    doomed[row] = true;
  }
  // Nothing below allocates or throws.
  const auto width = static_cast<std::ptrdiff_t>(state.dimension);
  std::size_t kept = 0;
  for (std::size_t row = 0; row < doomed.size(); ++row) {
    if (doomed[row]) {
      state.row_of.erase(state.ids[row]);
      continue;
    }
    if (kept != row) {
      std::copy_n(state.values.begin() + static_cast<std::ptrdiff_t>(row) * width, width,
                  state.values.begin() + static_cast<std::ptrdiff_t>(kept) * width);
      state.norms[kept] = state.norms[row];
      state.ids[kept] = state.ids[row];
      state.metadata[kept] = std::move(state.metadata[row]);
      state.table.move(row, kept);
      state.scans.move(row, kept);
      state.row_of.find(state.ids[kept])->second = kept;
    }
    ++kept;
  }
  state.truncate(kept);
}

void RetrievalIndex::compact() {
  auto& state = *state_;
  state.values.shrink_to_fit();
  state.norms.shrink_to_fit();
  state.ids.shrink_to_fit();
  state.metadata.shrink_to_fit();
  state.scans.shrink();
}

std::vector<Hits> RetrievalIndex::search(const RowMatrixRef& queries, std::int64_t k, const Filter& filter,
                                         const SearchOptions& options) const {
  return detail::exact_search(*state_, queries, {.count = checked_count(k, size())}, {filter}, options, kSearch);
}

std::vector<Hits> RetrievalIndex::search(const RowMatrixRef& queries, std::int64_t k,
                                         const std::vector<Filter>& filters, const SearchOptions& options) const {
  const auto count = checked_count(k, size());
  if (filters.size() != static_cast<std::size_t>(queries.rows()))
    fail(ErrorCode::kMismatch, kSearch, "filters", detail::concat(queries.rows(), ", one a query"), filters.size());
  return detail::exact_search(*state_, queries, {.count = count}, filters, options, kSearch);
}

std::vector<Hits> RetrievalIndex::search_range(const RowMatrixRef& queries, double score, const Filter& filter,
                                               const SearchOptions& options) const {
  constexpr char kFunction[] = "RetrievalIndex::search_range";
  require(std::isfinite(score), kFunction, "score", "a finite number", score);
  return detail::exact_search(*state_, queries, {.score = score}, {filter}, options, kFunction);
}

std::int64_t RetrievalIndex::dimension() const { return state_->dimension; }
Metric RetrievalIndex::metric() const { return state_->metric; }
const IndexOptions& RetrievalIndex::options() const { return state_->options; }
const std::vector<std::int64_t>& RetrievalIndex::ids() const { return state_->ids; }
bool RetrievalIndex::contains(std::int64_t id) const { return state_->row_of.count(id) != 0; }
const std::string& RetrievalIndex::fingerprint() const { return state_->fingerprint; }

const Metadata& RetrievalIndex::metadata(std::int64_t id) const {
  return state_->metadata[state_->row_of_id(id, "RetrievalIndex::metadata")];
}

Eigen::RowVectorXf RetrievalIndex::vector(std::int64_t id) const {
  const float* values = state_->row(state_->row_of_id(id, "RetrievalIndex::vector"));
  return Eigen::Map<const Eigen::RowVectorXf>(values, state_->dimension);
}

void RetrievalIndex::require_fingerprint(const std::string& expected) const {
  if (fingerprint() != expected)
    fail(ErrorCode::kMismatch, "RetrievalIndex::require_fingerprint", "fingerprint", "'" + expected + "'",
         "an index of vectors made by '" + fingerprint() + "'");
}

}  // namespace daug
