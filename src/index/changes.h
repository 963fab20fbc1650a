#pragma once
// What can be done to the items of an index, on a snapshot that nobody else sees yet.

#include <cstdint>
#include <string>
#include <vector>

#include "snapshot.h"

namespace daug::detail {

/// All check their arguments before they change anything and throw what RetrievalIndex documents, naming `function`.
void add_items(Snapshot& next, const std::vector<std::int64_t>& ids, const RowMatrixRef& vectors,
               const std::vector<Metadata>& metadata, const char* function);
void update_items(Snapshot& next, const std::vector<std::int64_t>& ids, const RowMatrixRef& vectors,
                  const std::vector<Metadata>& metadata, const char* function);
void remove_items(Snapshot& next, const std::vector<std::int64_t>& ids, const char* function);

/// Ids and metadata of items with texts for ids.
struct NamedItems {
  std::vector<std::int64_t> ids;
  std::vector<Metadata> metadata;
};
NamedItems named_items(const std::vector<std::string>& names, const RowMatrixRef& vectors,
                       const std::vector<Metadata>& metadata, const char* function);

}  // namespace daug::detail
