#include "changes.h"

#include <unordered_set>
#include <utility>

#include "daug/core/error.h"

namespace daug::detail {
namespace {

constexpr char kName[] = "name";

void require_sizes(std::size_t count, const RowMatrixRef& vectors, const std::vector<Metadata>& metadata,
                   const char* function) {
  if (static_cast<std::size_t>(vectors.rows()) != count)
    fail(ErrorCode::kMismatch, function, "vectors", concat(count, " rows, one an id"), vectors.rows());
  if (!metadata.empty() && metadata.size() != count)
    fail(ErrorCode::kMismatch, function, "metadata", concat(count, " entries or none"), metadata.size());
}

/// Where items are. Throws kNotFound for one that is not, and with `twice` for an id that is listed twice.
std::vector<Place> places_of(const Snapshot& snapshot, const std::vector<std::int64_t>& ids, ErrorCode twice,
                             const char* function) {
  std::vector<Place> places;
  std::unordered_set<std::int64_t> seen;
  for (const auto id : ids) {
    places.push_back(snapshot.require_id(id, function));
    if (!seen.insert(id).second) fail(twice, function, "ids", "each id once", concat(id, " twice"));
  }
  return places;
}

}  // namespace

void add_items(Snapshot& next, const std::vector<std::int64_t>& ids, const RowMatrixRef& vectors,
               const std::vector<Metadata>& metadata, const char* function) {
  require_sizes(ids.size(), vectors, metadata, function);
  auto norms = next.checked_norms(vectors, function, "vectors");
  next.require_new(ids, function);
  next.append({ids, vectors, std::move(norms), metadata});
  next.tidy();
}

void update_items(Snapshot& next, const std::vector<std::int64_t>& ids, const RowMatrixRef& vectors,
                  const std::vector<Metadata>& metadata, const char* function) {
  require_sizes(ids.size(), vectors, metadata, function);
  auto norms = next.checked_norms(vectors, function, "vectors");
  const auto places = places_of(next, ids, ErrorCode::kInvalidArgument, function);
  std::vector<Metadata> kept;
  if (metadata.empty())
    for (const auto& [part, row] : places) kept.push_back(next.parts()[part].chunk->table().get(row));
  next.remove(places);
  next.append({ids, vectors, std::move(norms), metadata.empty() ? kept : metadata});
  next.tidy();
}

void remove_items(Snapshot& next, const std::vector<std::int64_t>& ids, const char* function) {
  next.remove(places_of(next, ids, ErrorCode::kNotFound, function));
  next.tidy();
}

NamedItems named_items(const std::vector<std::string>& names, const RowMatrixRef& vectors,
                       const std::vector<Metadata>& metadata, const char* function) {
  require_sizes(names.size(), vectors, metadata, function);
  NamedItems items{{}, metadata.empty() ? std::vector<Metadata>(names.size()) : metadata};
  for (std::size_t i = 0; i < names.size(); ++i) {
    items.ids.push_back(RetrievalIndex::id_of(names[i]));
    const auto& kept = items.metadata[i].emplace(kName, names[i]).first->second;
    if (kept != names[i])
      fail(ErrorCode::kInvalidArgument, function, concat("metadata[", i, "]"), "no 'name' or '" + names[i] + "'",
           "'" + kept + "'");
  }
  return items;
}

}  // namespace daug::detail
