#include "snapshot.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "daug/core/error.h"
#include "exact_order.h"

namespace daug::detail {

std::optional<Place> Snapshot::find(std::int64_t id) const {
  // From the end: an item that was replaced has left a removed row behind.
  for (std::size_t part = parts_.size(); part-- > 0;)
    if (const auto row = parts_[part].chunk->find(id); row && parts_[part].has(*row))
      return Place{static_cast<std::uint32_t>(part), static_cast<std::uint32_t>(*row)};
  return std::nullopt;
}

Place Snapshot::require_id(std::int64_t id, const char* function) const {
  const auto found = find(id);
  if (!found) fail(ErrorCode::kNotFound, function, "id", "an id of the index", id);
  return *found;
}

std::vector<double> Snapshot::checked_norms(const RowMatrixRef& vectors, const char* function,
                                            const char* argument) const {
  if (vectors.cols() != settings_->dimension)
    fail(ErrorCode::kMismatch, function, argument, concat(settings_->dimension, " columns"), vectors.cols());
  return norms_of_rows(settings_->metric, vectors, function, argument);
}

void Snapshot::require_new(const std::vector<std::int64_t>& ids, const char* function) const {
  const auto refuse = [&](std::size_t i) {
    fail(ErrorCode::kInvalidArgument, function, concat("ids[", i, "]"), "a new id",
         concat(ids[i], ", which is there already"));
  };
  std::vector<std::size_t> order(ids.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return ids[a] < ids[b]; });
  for (std::size_t i = 1; i < order.size(); ++i)
    if (ids[order[i]] == ids[order[i - 1]]) refuse(order[i]);
  constexpr std::size_t kCostOfFinding = 16;  // in steps of a walk through both lists
  for (const auto& part : parts_) {
    const Chunk& chunk = *part.chunk;
    if (kCostOfFinding * ids.size() < chunk.rows()) {
      for (const auto i : order)
        if (const auto row = chunk.find(ids[i]); row && part.has(*row)) refuse(i);
      continue;
    }
    const auto* rows = chunk.order();
    std::size_t at = 0;
    for (const auto i : order) {
      while (at < chunk.rows() && chunk.ids()[rows[at]] < ids[i]) ++at;
      if (at == chunk.rows()) break;
      if (chunk.ids()[rows[at]] == ids[i] && part.has(rows[at])) refuse(i);
    }
  }
}

void Snapshot::require_encoder(const std::string& fingerprint, const char* function) const {
  if (settings_->fingerprint != fingerprint)
    fail(ErrorCode::kMismatch, function, "fingerprint", "'" + fingerprint + "'",
         "an index of vectors made by '" + settings_->fingerprint + "'");
}

void Snapshot::require_fields(const Filter& filter, const char* function) const {
  if (size_ == 0) return;
  for (const auto& field : filter.fields())
    if (!fields_->count(field))
      fail(ErrorCode::kNotFound, function, "filter", "metadata that an item of the index has", "'" + field + "'");
}

void Snapshot::set_graph(std::shared_ptr<const Graph> graph, const Snapshot& of) {
  std::set<std::uint64_t> known;
  for (const auto& part : of.parts_) known.insert(part.chunk->serial());
  for (auto& part : parts_) part.in_graph = known.count(part.chunk->serial()) ? part.chunk->rows() : 0;
  graph_ = std::move(graph);
}

Snapshot Snapshot::outside_graph() const {
  Snapshot outside(settings_);
  outside.fields_ = fields_;
  for (const auto& part : parts_) {
    if (part.in_graph == part.chunk->rows()) continue;
    Part rest = part;
    if (part.in_graph > 0) {
      auto removed = part.removed ? *part.removed : std::vector<bool>(part.chunk->rows());
      for (std::size_t row = 0; row < part.in_graph; ++row) {
        rest.size -= removed[row] ? 0 : 1;
        removed[row] = true;
      }
      rest.removed = std::make_shared<const std::vector<bool>>(std::move(removed));
    }
    outside.size_ += rest.size;
    outside.parts_.push_back(std::move(rest));
  }
  return outside;
}

void Snapshot::append(const CheckedItems& items) {
  static const Metadata kNone;
  const std::size_t most = settings_->chunk_rows();
  std::set<std::string> names;
  for (std::size_t first = 0; first < items.ids.size(); first += most) {
    const std::size_t count = std::min(most, items.ids.size() - first);
    ChunkBuilder builder(settings_, count);
    for (std::size_t i = first; i < first + count; ++i) {
      const Metadata& texts = items.metadata.empty() ? kNone : items.metadata[i];
      builder.add(items.ids[i], items.vectors.data() + static_cast<Eigen::Index>(i) * items.vectors.outerStride(),
                  items.norms[i], texts);
      for (const auto& [name, value] : texts) names.insert(name);
    }
    append(builder.finish());
  }
  add_fields(names);
}

void Snapshot::append(std::shared_ptr<const Chunk> chunk) {
  const std::size_t rows = chunk->rows();
  parts_.push_back({std::move(chunk), nullptr, rows, 0});
  size_ += rows;
}

void Snapshot::add_fields(const std::set<std::string>& names) {
  if (std::includes(fields_->begin(), fields_->end(), names.begin(), names.end())) return;
  auto all = *fields_;
  all.insert(names.begin(), names.end());
  fields_ = std::make_shared<const std::set<std::string>>(std::move(all));
}

void Snapshot::remove(const std::vector<Place>& items) {
  std::vector<std::vector<bool>> removed(parts_.size());
  for (const auto& [at, row] : items) {
    Part& part = parts_[at];
    if (removed[at].empty()) removed[at] = part.removed ? *part.removed : std::vector<bool>(part.chunk->rows());
    removed[at][row] = true;
    --part.size;
    --size_;
  }
  for (std::size_t at = 0; at < parts_.size(); ++at)
    if (!removed[at].empty()) parts_[at].removed = std::make_shared<const std::vector<bool>>(std::move(removed[at]));
}

void Snapshot::rewrite(std::size_t first, std::size_t count) {
  std::size_t rows = 0;
  for (std::size_t at = first; at < first + count; ++at) rows += parts_[at].size;
  ChunkBuilder builder(settings_, rows);
  for (std::size_t at = first; at < first + count; ++at)
    for (std::size_t row = 0; row < parts_[at].chunk->rows(); ++row)
      if (parts_[at].has(row)) builder.copy(*parts_[at].chunk, row);
  // Those of the graph have to come first; the others are searched besides it.
  std::size_t in_graph = 0;
  for (std::size_t at = first; at < first + count; ++at) {
    for (std::size_t row = 0; row < parts_[at].in_graph; ++row) in_graph += parts_[at].has(row) ? 1 : 0;
    if (parts_[at].in_graph < parts_[at].chunk->rows()) break;
  }
  parts_[first] = {builder.finish(), nullptr, rows, in_graph};
  const auto begin = parts_.begin() + static_cast<std::ptrdiff_t>(first);
  parts_.erase(begin + 1, begin + static_cast<std::ptrdiff_t>(count));
}

void Snapshot::tidy(bool all) {
  std::erase_if(parts_, [](const Part& part) { return part.size == 0; });
  const std::size_t most = settings_->chunk_rows();
  for (std::size_t at = 0; at < parts_.size(); ++at) {
    std::size_t count = 1;
    if (all)
      for (std::size_t rows = parts_[at].size; at + count < parts_.size() && rows + parts_[at + count].size <= most;
           ++count)
        rows += parts_[at + count].size;
    const bool gaps = all ? parts_[at].removed != nullptr : 2 * parts_[at].size < parts_[at].chunk->rows();
    if (count > 1 || gaps) rewrite(at, count);
  }
  // Sizes halve from each part to the next, at least, unless two would be too much for one.
  for (std::size_t at = parts_.size(); at-- > 1;)
    if (parts_[at - 1].size < 2 * parts_[at].size && parts_[at - 1].size + parts_[at].size <= most) rewrite(at - 1, 2);
}

}  // namespace daug::detail
