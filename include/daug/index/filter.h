#pragma once
/// @file
/// Conditions on the items of a retrieval index: small values that combine with &&, || and !.

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

namespace daug {

/// Free-form texts that describe an item. Names used by the library: "patient", "view", "findings" (a list, its
/// elements separated by '|').
using Metadata = std::map<std::string, std::string>;

/// Which items a search may return. A default filter lets every item through.
///
/// A value: copying is cheap and copies share nothing that changes. An item without the named metadata is treated as
/// having no value, so `equals` is false and `!equals` true for it.
class Filter {
 public:
  /// True for an item the search may return. Must depend on its arguments only.
  using Predicate = std::function<bool(std::int64_t id, const Metadata& metadata)>;

  /// Lets everything through.
  Filter() = default;
  /// Any condition; must not change the index.
  explicit Filter(Predicate predicate) : predicate_(std::move(predicate)) {}

  /// metadata[key] is exactly `value`.
  static Filter equals(std::string key, std::string value);
  /// metadata[key], read as a list separated by '|', has the element `element`.
  static Filter lists(std::string key, std::string element);
  /// metadata has the key.
  static Filter has(std::string key);
  /// The id is one of these.
  static Filter ids(const std::vector<std::int64_t>& ids);
  /// metadata["patient"] is not `patient`: a query must not retrieve its own patient.
  static Filter exclude_patient(std::string patient);

  /// Whether a search may return this item.
  bool matches(std::int64_t id, const Metadata& metadata) const { return !predicate_ || predicate_(id, metadata); }

  /// Both, either, or not this one.
  friend Filter operator&&(const Filter& a, const Filter& b);
  friend Filter operator||(const Filter& a, const Filter& b);
  friend Filter operator!(const Filter& a);

 private:
  Predicate predicate_;  ///< empty: everything
};

}  // namespace daug
