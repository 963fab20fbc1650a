#pragma once
// What a Filter is made of.

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <unordered_set>

#include "daug/index/filter.h"

namespace daug::detail {

struct FilterNode {
  enum class Kind { kValue, kHas, kIds, kPredicate, kAnd, kOr, kNot };
  using Child = std::shared_ptr<const FilterNode>;

  Kind kind;
  std::string key = {};                                     ///< kValue, kHas
  std::string asked = {};                                   ///< kValue: what of it, as Filter::text says it
  std::function<bool(const std::string& value)> test = {};  ///< kValue: asked once for every different value
  std::optional<std::string> only = {};                     ///< kValue: the one value that passes, where there is one
  std::unordered_set<std::int64_t> ids = {};                ///< kIds
  Filter::Predicate predicate = {};                         ///< kPredicate
  Child a = {};                                             ///< kAnd, kOr, kNot; null passes everything
  Child b = {};                                             ///< kAnd, kOr
};

}  // namespace daug::detail
