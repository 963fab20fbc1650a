#pragma once
// A small index, and what is in one.

#include <vector>

#include "brute_force.h"

namespace daug::test {

inline RetrievalIndex four_points(Metric metric) {
  RetrievalIndex index(2, metric);
  RowMatrix vectors(4, 2);
  vectors << 1, 0, 0, 2, 3, 4, -1, 0;
  index.add({10, 20, 30, 40}, vectors,
            {{{"patient", "a"}}, {{"patient", "b"}}, {{"patient", "a"}, {"findings", "Edema|Nodule"}}, {}});
  return index;
}

/// Everything an index holds, to see that a failed change changed nothing.
struct Snapshot {
  explicit Snapshot(const RetrievalIndex& index) : ids(index.ids()) {
    for (const auto id : ids) {
      vectors.push_back(index.vector(id));
      metadata.push_back(index.metadata(id));
    }
  }
  bool operator==(const Snapshot& other) const {
    return ids == other.ids && vectors == other.vectors && metadata == other.metadata;
  }
  Ids ids;
  std::vector<Eigen::RowVectorXf> vectors;
  std::vector<Metadata> metadata;
};

}  // namespace daug::test
