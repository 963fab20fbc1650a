#pragma once
// The anatomy behind a phantom: continuous functions of position, sampled at any resolution. Positions are in anatomy
// units: x in [-1, 1] from left to right of the image, y in [-1, 1] from top to bottom, before pose. `side` is -1 (left
// half of the image, the patient's right) or +1.

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "daug/core/random.h"
#include "daug/data/phantom.h"

namespace daug::phantom {

/// How many kinds of findings there are, those of phantom_findings().
inline constexpr std::size_t kFindingCount = 6;

using Descriptions = std::array<FindingDescription, kFindingCount>;  ///< by finding index
using Present = std::array<bool, kFindingCount>;                     ///< the same

struct Point {
  double x = 0, y = 0;
};

/// An ellipse cut from below by a diaphragm dome; x is measured from the midline towards the side.
struct Lung {
  double cx = 0, cy = 0, ax = 0, ay = 0;  // ellipse
  double dome = 0, drop = 0, dome_x = 0;  // diaphragm: y = dome + drop ((x - dome_x) / ax)^2
};

struct Heart {
  double cx = 0, cy = 0, rx = 0, ry = 0;
};

/// A soft-edged disc that adds density.
struct Blob {
  Point centre;
  double radius = 0, edge = 0, density = 0;
};

/// What belongs to the patient.
struct Anatomy {
  double body_width = 0, shoulder_y = 0, neck_width = 0;
  double tissue = 0, lung_depth = 0;                  // density of soft tissue, and what air takes away from it
  double mediastinum_width = 0, tilt = 0, curve = 0;  // the midline: x = tilt y + curve (y^2 - 0.3)
  std::array<Lung, 2> lungs;                          // [0] side -1, [1] side +1
  Heart heart;
  double knob = 0, trachea = 0, hilum = 0;  // aortic knob radius; densities
  double rib_spacing = 0, rib_phase = 0, rib_slope = 0, rib_density = 0;
  double clavicle_y = 0, clavicle_slope = 0, clavicle_density = 0;
  double breast_y = 0, breast_radius = 0, breast_density = 0;
  double vessel_density = 0;
  std::array<float, 1024> texture{};  // 32 x 32 lattice of values in [-1, 1]
};

/// What changes from one image of a patient to the next.
struct Pose {
  double dx = 0, dy = 0, scale = 0, angle = 0, breath = 0;
  double offset = 0, gain = 0, gradient_x = 0, gradient_y = 0, noise = 0;
  std::vector<Blob> vessels;  // seen end-on: they look like small nodules in healthy images
  bool ap = false;
};

struct Effusion {
  enum class Kind { kFree, kVeil, kLoculated } kind = Kind::kFree;
  int side = 0;
  double level = 0, rise = 0, opacity = 0;  // y of the fluid level at the lung's centre; climb towards the chest wall
  Blob pocket;                              // loculated
};

struct Consolidation {
  int side = 0;
  bool lobar = false;
  double top = 0, bottom = 0;  // lobar: between these heights
  Point centre;                // patchy: an ellipse with a ragged edge
  double rx = 0, ry = 0, angle = 0, edge = 0, opacity = 0;
};

struct Pneumothorax {
  int side = 0;
  bool basal = false;
  Lung collapsed;                   // what is left of the lung
  double basal_x = 0, basal_y = 0;  // basal: lateral to and below
  double lucency = 0;
};

struct Device {
  std::vector<Point> line;
  double width = 0, density = 0;
  bool box = false;
  Point box_centre;
  double box_w = 0, box_h = 0;
};

/// Planted findings; an empty list or false: absent.
struct Lesions {
  std::vector<Effusion> effusions;
  bool cardiomegaly = false;
  Heart large_heart;
  std::vector<Blob> nodules;
  std::vector<Consolidation> consolidations;
  std::vector<Pneumothorax> pneumothoraces;
  std::vector<Device> devices;
  Descriptions descriptions;
};

struct Scene {
  Anatomy anatomy;
  Pose pose;
  Lesions lesions;
  Present present{};
};

constexpr double square(double value) { return value * value; }

/// The `side` of an index into Anatomy::lungs.
constexpr int sign_of(int side_index) { return side_index == 0 ? -1 : 1; }

/// x of the midline at a height.
inline double midline(const Anatomy& anatomy, double y) { return anatomy.tilt * y + anatomy.curve * (y * y - 0.3); }

/// A point well inside the aerated part of a lung, in midline coordinates (x - midline, y).
Point point_in_lung(const Scene& scene, int side_index, RandomStream& random, double margin);

/// Places a finding of phantom_findings(), given by its index, in a scene and describes it there.
void plant(Scene& scene, std::size_t finding, RandomStream random);

/// Draws everything for one image. A placement in which one finding hides another is drawn again, judged on a grid that
/// does not depend on the image size.
Scene make_scene(const PhantomOptions& options, std::uint64_t patient, std::uint64_t image);

/// Key of the random streams of one image.
constexpr std::uint64_t item_key(std::uint64_t patient, std::uint64_t image) { return patient * 64 + image; }

/// Places of `render`'s result beside "without finding k".
inline constexpr std::size_t kWithAll = kFindingCount, kWithNone = kFindingCount + 1;

/// Noise-free, unclipped pixel values [size * size]: without finding k in [k] for each present finding (empty for an
/// absent one), with all, without any. Each pixel is the mean of supersampling^2 points.
std::array<std::vector<float>, kFindingCount + 2> render(const Scene& scene, int size, int supersampling);

}  // namespace daug::phantom
