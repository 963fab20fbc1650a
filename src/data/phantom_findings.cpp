// Findings as they are placed in a scene, and what a report says of them. What they look like is in phantom_scene.cpp.

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "daug/core/random.h"
#include "phantom_scene.h"

namespace daug::phantom {
namespace {

const char* patient_side(int side) { return side < 0 ? "right" : "left"; }

const char* zone_of(const Lung& lung, double y) {
  const double t = (y - (lung.cy - lung.ay)) / (lung.dome - (lung.cy - lung.ay));
  return t < 0.4 ? "upper" : t < 0.7 ? "mid" : "lower";
}

const char* size_of(double value, double small, double large) {
  return value < small ? "small" : value < large ? "moderate" : "large";
}

void draw_effusion(Scene& scene, RandomStream random) {
  const double which = random.uniform();
  const bool both = which < 0.2;
  FindingDescription& words = scene.lesions.descriptions[0];
  double largest = 0;  // height as a fraction of the lung's
  for (int index = 0; index < 2; ++index) {
    if (!both && (which < 0.6) != (index == 0)) continue;
    const Lung& lung = scene.anatomy.lungs[static_cast<std::size_t>(index)];
    const double top = lung.cy - lung.ay, extent = lung.dome - top;
    const double kind = random.uniform();
    double fraction = 0.12 + 0.5 * square(random.uniform());
    Effusion effusion;
    effusion.side = sign_of(index);
    effusion.opacity = random.uniform(0.55, 0.95);
    if (kind < 0.6) {
      effusion.kind = Effusion::Kind::kFree;
      effusion.level = lung.dome + scene.pose.breath - fraction * extent;
      effusion.rise = random.uniform(0.04, 0.2);
    } else if (kind < 0.75) {
      effusion.kind = Effusion::Kind::kVeil;
      fraction = random.uniform(0.3, 0.8);
      effusion.level = lung.dome - fraction * extent;
      effusion.opacity *= 0.65;
      words.kind = "layering";
    } else {
      effusion.kind = Effusion::Kind::kLoculated;
      const double t = random.uniform(-0.75, 0.75);
      effusion.pocket.centre = {effusion.side * (lung.cx + lung.ax * std::sqrt(1 - t * t) * random.uniform(0.85, 1.0)),
                                lung.cy + lung.ay * t};
      effusion.pocket.radius = random.uniform(0.08, 0.2);  // half width
      effusion.pocket.edge = random.uniform(0.12, 0.3);    // half height
      fraction = effusion.pocket.edge / extent;
      words.kind = "loculated";
    }
    largest = std::max(largest, fraction);
    words.side = both ? "bilateral" : patient_side(effusion.side);
    scene.lesions.effusions.push_back(effusion);
  }
  words.size = size_of(largest, 0.2, 0.4);
}

void draw_cardiomegaly(Scene& scene, RandomStream random) {
  Heart large = scene.anatomy.heart;
  const double factor = random.uniform(1.2, 1.55);
  const double lean = random.uniform(-0.5, 1.0);  // towards which side the heart grows
  large.rx *= factor;
  large.ry *= 1 + random.uniform(0.2, 1.0) * (factor - 1);
  large.cx += lean * (large.rx - scene.anatomy.heart.rx);
  large.cy -= random.uniform(-0.2, 0.9) * (large.ry - scene.anatomy.heart.ry);
  large.cy += 0.5 * scene.pose.breath;
  scene.lesions.cardiomegaly = true;
  scene.lesions.large_heart = large;
  scene.lesions.descriptions[1].size = factor < 1.3 ? "mild" : factor < 1.43 ? "moderate" : "severe";
}

void draw_nodule(Scene& scene, RandomStream random) {
  const std::uint32_t count = random.uniform() < 0.75 ? 1 : 2 + random.below(2);
  for (std::uint32_t i = 0; i < count; ++i) {
    const int index = static_cast<int>(random.below(2));
    const double radius = random.uniform(0.045, 0.1);
    const Point centre = point_in_lung(scene, index, random, 0.5 * radius);
    scene.lesions.nodules.push_back({centre, radius, random.uniform(0.02, 0.05), random.uniform(0.18, 0.36)});
    FindingDescription& words = scene.lesions.descriptions[2];
    words.side = count > 1 ? "" : patient_side(sign_of(index));
    words.zone = count > 1 ? "" : zone_of(scene.anatomy.lungs[static_cast<std::size_t>(index)], centre.y);
    words.size = size_of(radius, 0.062, 0.083);
    words.kind = count > 1 ? "multiple" : "";
  }
}

void draw_consolidation(Scene& scene, RandomStream random) {
  const std::uint32_t count = random.uniform() < 0.8 ? 1 : 2;
  FindingDescription& words = scene.lesions.descriptions[3];
  for (std::uint32_t i = 0; i < count; ++i) {
    const int index = static_cast<int>(random.below(2));
    const Lung& lung = scene.anatomy.lungs[static_cast<std::size_t>(index)];
    Consolidation patch;
    patch.side = sign_of(index);
    patch.opacity = random.uniform(0.5, 0.85);
    patch.lobar = random.uniform() < 0.2;
    const double top = lung.cy - lung.ay, extent = lung.dome - top;
    const Point centre = point_in_lung(scene, index, random, 0.05);
    patch.centre = centre;
    patch.rx = random.uniform(0.11, 0.24);
    patch.ry = random.uniform(0.11, 0.26);
    patch.angle = random.uniform(0, 3.14);
    patch.edge = random.uniform(0.08, 0.2);
    double y = centre.y;
    if (patch.lobar) {
      const double start = random.uniform(-0.1, 0.7), length = random.uniform(0.2, 0.4);
      patch.top = top + start * extent;
      patch.bottom = patch.top + length * extent;
      y = 0.5 * (patch.top + patch.bottom);
      words.kind = "lobar";
    }
    words.side = i == 0 || words.side == patient_side(patch.side) ? patient_side(patch.side) : "bilateral";
    words.zone = count == 1 ? zone_of(lung, y) : "";
    words.size = size_of(patch.rx + patch.ry, 0.3, 0.4);
    scene.lesions.consolidations.push_back(patch);
  }
}

void draw_pneumothorax(Scene& scene, RandomStream random) {
  const int index = static_cast<int>(random.below(2));
  const Lung& lung = scene.anatomy.lungs[static_cast<std::size_t>(index)];
  Pneumothorax air;
  air.side = sign_of(index);
  air.lucency = random.uniform(0.4, 0.7);
  air.collapsed = lung;
  FindingDescription& words = scene.lesions.descriptions[4];
  words.side = patient_side(air.side);
  double lateral = 0, apical = 0;  // gaps as fractions of the half axes
  const double kind = random.uniform();
  if (kind < 0.3) {
    apical = random.uniform(0.3, 0.75), lateral = random.uniform(0.05, 0.2), words.kind = "apical";
  } else if (kind < 0.6) {
    lateral = random.uniform(0.25, 0.6), apical = random.uniform(0, 0.12), words.kind = "lateral";
  } else if (kind < 0.8) {
    lateral = random.uniform(0.3, 0.9), apical = random.uniform(0.2, 0.6);
  } else {
    air.basal = true;
    air.basal_x = lung.cx + lung.ax * random.uniform(-0.6, 0.4);
    air.basal_y = lung.dome - random.uniform(0.15, 0.5);
    words.kind = "basal";
  }
  air.collapsed.ax = lung.ax * (1 - 0.5 * lateral);
  air.collapsed.cx = lung.cx - (lung.ax - air.collapsed.ax);
  air.collapsed.ay = lung.ay * (1 - 0.5 * apical);
  air.collapsed.cy = lung.cy + (lung.ay - air.collapsed.ay);
  words.size = size_of(std::max(lateral, apical), 0.35, 0.6);
  scene.lesions.pneumothoraces.push_back(air);
}

std::vector<Point> curve(Point start, Point bend, Point end) {
  std::vector<Point> line;
  for (int i = 0; i <= 10; ++i) {
    const double t = i / 10.0, s = 1 - t;
    line.push_back(
        {s * s * start.x + 2 * s * t * bend.x + t * t * end.x, s * s * start.y + 2 * s * t * bend.y + t * t * end.y});
  }
  return line;
}

void draw_device(Scene& scene, RandomStream random) {
  const auto jitter = [&](double centre, double spread) { return centre + random.uniform(-spread, spread); };
  const double kind = random.uniform();
  const double side = random.below(2) ? 1 : -1;
  const double middle = midline(scene.anatomy, -0.2);
  Device device;
  device.width = random.uniform(0.025, 0.045);
  device.density = random.uniform(0.25, 0.5);
  FindingDescription& words = scene.lesions.descriptions[5];
  if (kind < 0.22) {
    words.kind = "endotracheal tube";
    device.line = curve({jitter(middle, 0.06), -1.1}, {jitter(middle, 0.03), -0.6},
                        {jitter(middle, 0.03), random.uniform(-0.45, -0.1)});
  } else if (kind < 0.4) {
    words.kind = "enteric tube";
    device.line = curve({jitter(middle, 0.06), -1.1}, {jitter(middle, 0.05), -0.1},
                        {jitter(middle + 0.12, 0.18), random.uniform(0.45, 0.9)});
  } else if (kind < 0.65) {
    words.kind = "central venous line";
    words.side = patient_side(static_cast<int>(side));
    const bool neck = random.uniform() < 0.5;
    const Point start = neck ? Point{side * random.uniform(0.12, 0.25), -1.05}
                             : Point{side * random.uniform(0.55, 0.9), random.uniform(-0.7, -0.35)};
    device.line = curve(start, {side * random.uniform(0.05, 0.3), random.uniform(-0.65, -0.4)},
                        {jitter(-0.1, 0.05), random.uniform(-0.25, 0.15)});
  } else if (kind < 0.82) {
    words.kind = "chest tube";
    words.side = patient_side(static_cast<int>(side));
    const Lung& lung = scene.anatomy.lungs[side < 0 ? 0 : 1];
    device.width *= 1.2;
    device.line = curve({side * (lung.cx + lung.ax + 0.12), random.uniform(-0.1, 0.45)},
                        {side * random.uniform(0.3, 0.6), random.uniform(-0.2, 0.4)},
                        {side * random.uniform(0.22, 0.55), random.uniform(-0.5, 0.2)});
  } else {
    words.kind = "pacemaker";
    words.side = patient_side(static_cast<int>(side));
    device.box = true;
    device.box_centre = {side * random.uniform(0.38, 0.62), random.uniform(-0.55, -0.25)};
    device.box_w = random.uniform(0.07, 0.1);
    device.box_h = random.uniform(0.05, 0.09);
    device.line = curve(device.box_centre, {side * random.uniform(0, 0.2), random.uniform(-0.6, -0.4)},
                        {random.uniform(-0.05, 0.3), random.uniform(0.1, 0.4)});
  }
  scene.lesions.devices.push_back(device);
}

using Draw = void (*)(Scene&, RandomStream);
constexpr std::array kDraw = {Draw{draw_effusion},      Draw{draw_cardiomegaly}, Draw{draw_nodule},
                              Draw{draw_consolidation}, Draw{draw_pneumothorax}, Draw{draw_device}};
static_assert(kDraw.size() == kFindingCount);

}  // namespace

void plant(Scene& scene, std::size_t finding, RandomStream random) { kDraw[finding](scene, random); }

}  // namespace daug::phantom
