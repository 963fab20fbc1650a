#include "pipeline/evaluation/duplicates.h"

#include <cstddef>
#include <vector>

#include "daug/core/random.h"
#include "support/catch.h"

using namespace daug;

namespace {

constexpr int kSize = 40;  // averaged down to 20 x 20

/// A blurred field of random numbers, as smooth as a radiograph.
std::vector<float> picture(std::uint64_t item) {
  RandomStream random(5, item, "duplicates test");
  std::vector<double> coarse(64);
  for (double& value : coarse) value = random.uniform() - 0.5;
  std::vector<float> pixels;
  for (int y = 0; y < kSize; ++y)
    for (int x = 0; x < kSize; ++x)
      pixels.push_back(static_cast<float>(coarse[static_cast<std::size_t>((y / 5) * 8 + x / 5)]));
  return pixels;
}

ImageSet set_of(const std::vector<std::vector<float>>& pictures) {
  ImageSet images;
  images.size = kSize;
  for (std::size_t i = 0; i < pictures.size(); ++i) {
    images.pixels.insert(images.pixels.end(), pictures[i].begin(), pictures[i].end());
    images.study.push_back(i);
    images.original.push_back({kSize, kSize});
  }
  return images;
}

}  // namespace

TEST_CASE("images that are there twice are found, and those that are merely alike beside them", "[pipeline]") {
  std::vector<std::vector<float>> pictures;
  for (std::uint64_t item = 0; item < 30; ++item) pictures.push_back(picture(item));
  pictures[7] = pictures[3];
  pictures[29] = pictures[3];
  pictures[12] = pictures[20];
  // Darker and with less contrast, and with a little noise: alike. With much noise: not.
  RandomStream random(6, 0, "duplicates test");
  for (std::size_t i = 0; i < pictures[5].size(); ++i) {
    pictures[6][i] = 0.5F * pictures[5][i] - 0.25F;
    pictures[9][i] = pictures[8][i] + 0.01F * static_cast<float>(random.normal());
    pictures[11][i] = pictures[10][i] + 0.3F * static_cast<float>(random.normal());
  }
  pictures[14].assign(pictures[14].size(), 0.25F);  // without contrast, and not the same grey
  pictures[15].assign(pictures[15].size(), 0.5F);

  const Duplicates found = find_duplicates(set_of(pictures), 2);
  CHECK(found.identical == std::vector<std::vector<std::size_t>>{{3, 7, 29}, {12, 20}});
  CHECK(found.searched);
  REQUIRE(found.alike.size() == 2);
  CHECK(found.alike[0].first == 5);
  CHECK(found.alike[0].second == 6);
  CHECK(found.alike[0].correlation == Approx(1).margin(1e-6));
  CHECK(found.alike[1].first == 8);
  CHECK(found.alike[1].second == 9);
  CHECK(found.alike[1].correlation > kAlike);
  CHECK(found.alike[1].correlation < 1 - 1e-6);

  const Duplicates none = find_duplicates(set_of({picture(0), picture(1)}), 1);
  CHECK(none.identical.empty());
  CHECK(none.alike.empty());
  CHECK(find_duplicates(set_of({picture(0)}), 1).alike.empty());
}
