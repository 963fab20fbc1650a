#pragma once
/// @file
/// Read-only views of contiguous numbers: what every metric takes, so that vectors, Eigen arrays and tensor memory
/// can be measured without a copy. (std::span is C++20; these headers are also C++17.)

#include <cstddef>
#include <optional>
#include <type_traits>
#include <utility>

#include "daug/core/error.h"

namespace daug {

/// A read-only run of `size()` values; does not own them, so the values must outlive the view.
///
/// Made implicitly from anything with `data()` and `size()`: std::vector<T>, std::array<T, N>, Eigen columns.
template <class T>
class ArrayView {
 public:
  using value_type = T;  ///< what the view holds

  /// An empty view.
  constexpr ArrayView() noexcept = default;
  /// The `size` values from `data` on.
  constexpr ArrayView(const T* data, std::size_t size) noexcept : data_(data), size_(size) {}
  /// All values of a container.
  template <class Container, class = std::enable_if_t<
                                 std::is_convertible_v<decltype(std::declval<const Container&>().data()), const T*>>>
  constexpr ArrayView(const Container& values) noexcept  // NOLINT: implicit on purpose
      : data_(values.data()), size_(static_cast<std::size_t>(values.size())) {}

  /// First value; null when the view is empty and was made from nothing.
  constexpr const T* data() const noexcept { return data_; }
  /// Number of values.
  constexpr std::size_t size() const noexcept { return size_; }
  /// Whether there are none.
  constexpr bool empty() const noexcept { return size_ == 0; }
  /// Iteration, for range-for and algorithms.
  constexpr const T* begin() const noexcept { return data_; }
  /// One past the last value.
  constexpr const T* end() const noexcept { return data_ + size_; }
  /// Unchecked, index < size().
  constexpr const T& operator[](std::size_t index) const noexcept { return data_[index]; }

 private:
  const T* data_ = nullptr;
  std::size_t size_ = 0;
};

/// Lets a template write `ArrayView(values)` for any such container.
template <class Container>
ArrayView(const Container&)
    -> ArrayView<std::remove_cv_t<std::remove_pointer_t<decltype(std::declval<const Container&>().data())>>>;

/// A read-only row-major matrix over values that must outlive it.
template <class T>
class MatrixView {
 public:
  /// A matrix without rows or columns.
  constexpr MatrixView() noexcept = default;

  /// Throws kInvalidArgument unless `values` holds exactly rows * columns values.
  MatrixView(ArrayView<T> values, std::size_t rows, std::size_t columns)
      : values_(values), rows_(rows), columns_(columns) {
    const bool fits = columns == 0 ? values.empty() : values.size() % columns == 0 && values.size() / columns == rows;
    if (!fits)
      fail(ErrorCode::kInvalidArgument, "MatrixView", "values", detail::concat(rows, " x ", columns, " values"),
           values.size());
  }

  /// Number of rows.
  constexpr std::size_t rows() const noexcept { return rows_; }
  /// Number of columns.
  constexpr std::size_t columns() const noexcept { return columns_; }
  /// Unchecked, row < rows() and column < columns().
  constexpr const T& operator()(std::size_t row, std::size_t column) const noexcept {
    return values_[row * columns_ + column];
  }

 private:
  ArrayView<T> values_;
  std::size_t rows_ = 0;
  std::size_t columns_ = 0;
};

/// Which rows to measure, in any order and with repeats (a bootstrap resample); nothing means every row once.
/// An empty selection is a selection of no rows.
using RowSelection = std::optional<ArrayView<std::size_t>>;

namespace detail {

/// Throws kInvalidArgument unless both have the same length.
template <class A, class B>
void require_same_size(const char* function, const char* argument, const A& reference, const B& values) {
  require(values.size() == reference.size(), function, argument, reference.size(), values.size());
}

/// Throws kInvalidArgument unless the label is 0 or 1.
inline void require_label(const char* function, unsigned label) {
  require(label <= 1, function, "labels", "0 or 1", label);
}

/// Calls `visit(row)` for every selected row. Throws kInvalidArgument for a row outside [0, rows).
template <class Visit>
void for_each_row(const char* function, const RowSelection& selection, std::size_t rows, Visit&& visit) {
  if (!selection) {
    for (std::size_t row = 0; row < rows; ++row) visit(row);
    return;
  }
  for (std::size_t row : *selection) {
    if (row >= rows) fail(ErrorCode::kInvalidArgument, function, "rows", concat("indices below ", rows), row);
    visit(row);
  }
}

}  // namespace detail

}  // namespace daug
