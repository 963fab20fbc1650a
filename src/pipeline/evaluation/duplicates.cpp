#include "duplicates.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <map>
#include <set>
#include <tuple>
#include <utility>

#include "daug/index/retrieval_index.h"
#include "daug/io/fingerprint.h"

namespace daug {

namespace {

/// The image averaged down to at most 32 x 32, with mean 0 and length 1; all 0 without contrast.
Eigen::RowVectorXf thumbnail(const float* pixels, int size) {
  constexpr int kSide = 32;
  const int down = (size + kSide - 1) / kSide, side = size / down;
  Eigen::RowVectorXd small(side * side);
  for (int y = 0; y < side; ++y)
    for (int x = 0; x < side; ++x) {
      double sum = 0;
      for (int dy = 0; dy < down; ++dy)
        for (int dx = 0; dx < down; ++dx) sum += pixels[(y * down + dy) * size + x * down + dx];
      small[y * side + x] = sum / (down * down);
    }
  small.array() -= small.mean();
  const double length = small.norm();
  constexpr double kFlat = 1e-6;  // of values in [-1, 1]
  if (length < kFlat) return Eigen::RowVectorXf::Zero(small.size());
  return (small / length).cast<float>();
}

}  // namespace

Duplicates find_duplicates(const ImageSet& images, int threads) {
  Duplicates found;
  const std::size_t bytes = images.pixels_per_image() * sizeof(float);
  std::map<std::uint64_t, std::vector<std::size_t>> by_content;
  std::vector<std::size_t> distinct;  // the first of every content
  for (std::size_t row = 0; row < images.count(); ++row) {
    auto& same = by_content[checksum64(images.image(row), bytes)];
    if (!same.empty() && std::memcmp(images.image(same[0]), images.image(row), bytes) != 0) continue;  // a collision
    if (same.empty()) distinct.push_back(row);
    same.push_back(row);
  }
  for (auto& entry : by_content)
    if (entry.second.size() > 1) found.identical.push_back(std::move(entry.second));
  std::sort(found.identical.begin(), found.identical.end());

  found.searched = images.count() <= kMostCompared;
  if (!found.searched) return found;
  std::vector<std::int64_t> ids;
  std::vector<Eigen::RowVectorXf> thumbnails;
  for (const std::size_t row : distinct) {
    Eigen::RowVectorXf small = thumbnail(images.image(row), images.size);
    if (small.isZero(0)) continue;
    ids.push_back(static_cast<std::int64_t>(row));
    thumbnails.push_back(std::move(small));
  }
  if (ids.size() < 2) return found;
  RowMatrix rows(static_cast<Eigen::Index>(ids.size()), thumbnails[0].size());
  for (std::size_t i = 0; i < ids.size(); ++i) rows.row(static_cast<Eigen::Index>(i)) = thumbnails[i];
  RetrievalIndex index(rows.cols(), Metric::kCosine);
  index.add(ids, rows);
  SearchOptions options;
  options.threads = threads;
  std::set<std::pair<std::size_t, std::size_t>> seen;
  const auto hits = index.search(rows, 2, options);
  for (std::size_t i = 0; i < ids.size(); ++i)
    for (const Hit& hit : hits[i]) {
      if (hit.id == ids[i] || hit.score < kAlike) continue;
      const auto pair = std::minmax({static_cast<std::size_t>(ids[i]), static_cast<std::size_t>(hit.id)});
      if (seen.insert(pair).second) found.alike.push_back({pair.first, pair.second, hit.score});
    }
  std::sort(found.alike.begin(), found.alike.end(), [](const AlikePair& a, const AlikePair& b) {
    return std::tuple(-a.correlation, a.first, a.second) < std::tuple(-b.correlation, b.first, b.second);
  });
  return found;
}

}  // namespace daug
