#pragma once
// Images that a cohort has more than once.

#include <cstddef>
#include <vector>

#include "daug/data/dataset.h"

namespace daug {

/// Two images that differ in little but brightness and contrast.
struct AlikePair {
  std::size_t first = 0, second = 0;  ///< rows, first < second
  double correlation = 0;             ///< of their pixels, averaged down to at most 32 x 32
};

struct Duplicates {
  std::vector<std::vector<std::size_t>> identical;  ///< rows of the same pixels, two or more each, by their first row
  std::vector<AlikePair> alike;                     ///< most alike first
  bool searched = false;                            ///< whether pairs that are merely alike were looked for
};

/// From this correlation on two images count as alike: compressing, brightening or rescaling an image leaves more than
/// that, another radiograph of the same patient does not reach it.
inline constexpr double kAlike = 0.999;
/// Images beyond which only identical ones are looked for, as every image is compared with every other.
inline constexpr std::size_t kMostCompared = 20000;

/// Identical images by their content, whatever their files are called and however they are compressed without loss; of
/// each image the one most like it where its correlation is at least kAlike. An image without contrast is like no
/// other. Deterministic, whatever `threads`.
Duplicates find_duplicates(const ImageSet& images, int threads);

}  // namespace daug
