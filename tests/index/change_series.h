#pragma once
// Changes to an index, to compare what a file holds with what it should.

#include <cstdint>
#include <string>

#include "brute_force.h"
#include "daug/core/random.h"

namespace daug::test {

/// Change number `number` of a series, the same for every index: items come, change and go.
template <class Index>
void change(Index& index, std::int64_t number) {
  RandomStream random(21, static_cast<std::uint64_t>(number), "writer");
  const RowMatrix vectors = random_rows(random, Kind::kGaussian, 3, 6);
  const auto text = std::to_string(number);
  if (number % 5 == 3) {
    index.update({3 * number - 9, 3 * number - 7}, vectors.topRows(2));
  } else if (number % 5 == 4) {
    index.remove({3 * number - 12});
  } else {
    index.add({3 * number, 3 * number + 1, 3 * number + 2}, vectors, {{{"step", text}}, {}, {{"a", "b"}, {"c", text}}});
  }
}

/// An index of 6 components and encoder "fp" after so many of them.
inline RetrievalIndex after(std::int64_t changes) {
  RetrievalIndex index(6, Metric::kCosine, "fp");
  for (std::int64_t number = 0; number < changes; ++number) change(index, number);
  return index;
}

}  // namespace daug::test
