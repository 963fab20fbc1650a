// A user's program of the LibTorch-free part, C++17.
#include <Eigen/Core>
#include <cstdint>
#include <cstdio>
#include <vector>

#include "daug/core/error.h"
#include "daug/heatmap/heatmap_store.h"
#include "daug/index/retrieval_index.h"
#include "daug/io/fingerprint.h"
#include "daug/metrics/classification.h"

#if __has_include(<ATen/core/Tensor.h>)
#error "LibTorch is on the include path"
#endif

int main() {
  const std::vector<double> scores = {0.9, 0.2, 0.6, 0.4};
  const std::vector<std::uint8_t> labels = {1, 0, 0, 1};
  if (daug::auroc(scores, labels) != 0.75) return 1;  // 3 of the 4 pairs are in order

  if (daug::Fingerprint().add("seed", 1).hex() == daug::Fingerprint().add("seed", 2).hex()) return 1;

  daug::RowMatrix vectors(3, 2);
  vectors << 1, 0, 0, 1, -1, 0;
  daug::RetrievalIndex index(2, daug::Metric::kCosine);
  index.add({10, 20, 30}, vectors);
  daug::RowMatrix query(1, 2);
  query << 0.1F, 2;
  const auto hits = index.search(query, 2);
  if (hits[0][0].id != 20 || hits[0][1].id != 10) return 1;

  const daug::HeatmapLayout layout{"fp", {"Edema"}, 4, 4, daug::MapStorage::kUint8};
  try {
    daug::HeatmapStoreWriter("no/such/folder/store", layout);
    return 1;
  } catch (const daug::Error& error) {
    if (error.code() != daug::ErrorCode::kNotFound) return 1;
  }

  std::puts("ok");
  return 0;
}
