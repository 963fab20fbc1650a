#pragma once
/// @file
/// Conditions on the items of a retrieval index: small values that combine with &&, || and !.

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace daug {

/// Free-form texts that describe an item. Names used by the library: "patient", "view", "findings" (a list, its
/// elements separated by '|'), "name" (see RetrievalIndex::add_named).
using Metadata = std::map<std::string, std::string>;

namespace detail {
struct FilterNode;
}

/// Which items a search may return. A default filter lets every item through.
///
/// A value: copying is cheap and copies share nothing that changes. An item without the named metadata is treated as
/// having no value, so `equals` is false and `!equals` true for it. A search refuses a filter on a name that no item
/// of the index has ever had (`has` alone may ask for it).
class Filter {
 public:
  /// True for an item the search may return. Must depend on its arguments only and may be called from several threads.
  using Predicate = std::function<bool(std::int64_t id, const Metadata& metadata)>;

  /// Lets everything through.
  Filter() = default;
  /// Any condition; must not change the index. An empty function lets everything through.
  explicit Filter(Predicate predicate);

  /// metadata[key] is exactly `value`.
  static Filter equals(std::string key, std::string value);
  /// metadata[key], read as a list separated by '|', has the element `element`.
  static Filter lists(std::string key, std::string element);
  /// metadata has the key.
  static Filter has(std::string key);
  /// metadata[key] is wholly a decimal number in [low, high]; either may be infinite. Throws kInvalidArgument when
  /// one is not-a-number or low > high.
  static Filter between(std::string key, double low, double high);
  /// metadata[key] is a date YYYY-MM-DD from `from` to `to`, both included. Throws kInvalidArgument unless those are
  /// dates of the calendar in that form, in this order.
  static Filter dates(std::string key, const std::string& from, const std::string& to);
  /// The id is one of these.
  static Filter ids(const std::vector<std::int64_t>& ids);
  /// metadata["patient"] is not `patient`: a query must not retrieve its own patient.
  static Filter exclude_patient(std::string patient);

  /// Whether a search may return this item.
  bool matches(std::int64_t id, const Metadata& metadata) const;
  /// Names of the metadata whose values decide, ascending; those that only `has` asks for and what a Predicate reads
  /// are not among them.
  std::vector<std::string> fields() const;
  /// The condition as a text: the same for filters that were made by the same calls with the same arguments, another
  /// for all others; but every Predicate reads "predicate", since nobody can look into one.
  std::string text() const;

  /// Lets through what both do.
  friend Filter operator&&(const Filter& a, const Filter& b);
  /// Lets through what either does.
  friend Filter operator||(const Filter& a, const Filter& b);
  /// Lets through what `a` does not.
  friend Filter operator!(const Filter& a);

  /// For the index's own use: the root of the condition, null for everything.
  const detail::FilterNode* root() const { return root_.get(); }

 private:
  explicit Filter(std::shared_ptr<const detail::FilterNode> root) : root_(std::move(root)) {}

  std::shared_ptr<const detail::FilterNode> root_;
};

}  // namespace daug
