#include "phantom_scene.h"

#include <algorithm>
#include <cmath>

#include "daug/core/random.h"

namespace daug::phantom {
namespace {

constexpr double kEdge = 0.035;  // width of an organ's soft edge

/// 0 outside to 1 inside over `width` around distance 0.
double smooth(double distance, double width) {
  const double t = std::clamp(distance / width + 0.5, 0.0, 1.0);
  return t * t * (3 - 2 * t);
}

double square(double value) { return value * value; }

/// Approximate distance to the edge of an ellipse, positive inside.
double inside_ellipse(double dx, double dy, double rx, double ry) {
  return (1 - std::sqrt(square(dx / rx) + square(dy / ry))) * std::min(rx, ry);
}

double blob(const Blob& blob, double x, double y) {
  const double dx = x - blob.centre.x, dy = y - blob.centre.y;
  const double reach = blob.radius + blob.edge;
  if (std::abs(dx) > reach || std::abs(dy) > reach) return 0;
  return blob.density * smooth(blob.radius - std::sqrt(dx * dx + dy * dy), blob.edge);
}

double distance_to_segment(const Point& a, const Point& b, double x, double y) {
  const double ux = b.x - a.x, uy = b.y - a.y;
  const double length2 = ux * ux + uy * uy;
  const double t = length2 > 0 ? std::clamp(((x - a.x) * ux + (y - a.y) * uy) / length2, 0.0, 1.0) : 0;
  return std::sqrt(square(x - a.x - t * ux) + square(y - a.y - t * uy));
}

/// Value noise on the patient's lattice in [-1, 1]; `frequency` cells a unit.
double texture(const Anatomy& anatomy, double x, double y, double frequency) {
  const double u = (x + 4) * frequency, v = (y + 4) * frequency;
  const double fu = std::floor(u), fv = std::floor(v);
  const auto lattice = [&](int i, int j) {
    return static_cast<double>(anatomy.texture[static_cast<std::size_t>((j & 31) * 32 + (i & 31))]);
  };
  const int i = static_cast<int>(fu), j = static_cast<int>(fv);
  const double a = smooth(u - fu - 0.5, 1), b = smooth(v - fv - 0.5, 1);
  const double top = lattice(i, j) + a * (lattice(i + 1, j) - lattice(i, j));
  const double bottom = lattice(i, j + 1) + a * (lattice(i + 1, j + 1) - lattice(i, j + 1));
  return top + b * (bottom - top);
}

double midline(const Anatomy& anatomy, double y) { return anatomy.tilt * y + anatomy.curve * (y * y - 0.3); }

/// Breathing lowers both domes and the heart's lower half a little.
double dome_at(const Lung& lung, double xs, double breath) {
  return lung.dome + breath + lung.drop * square((xs - lung.dome_x) / lung.ax);
}

double in_lung(const Lung& lung, double xs, double y, double breath) {
  if (xs < 0 || y > lung.dome + breath + 3 * lung.drop + kEdge) return 0;
  const double wall = smooth(inside_ellipse(xs - lung.cx, y - lung.cy, lung.ax, lung.ay), kEdge);
  return wall == 0 ? 0 : wall * smooth(dome_at(lung, xs, breath) - y, kEdge);
}

/// The apex points down and to the patient's left.
double in_heart(const Heart& heart, double x, double y) {
  constexpr double kCos = 0.9211, kSin = 0.3894;  // 0.4 radians
  const double dx = x - heart.cx, dy = y - heart.cy;
  return smooth(inside_ellipse(kCos * dx + kSin * dy, kCos * dy - kSin * dx, heart.rx, heart.ry), kEdge);
}

/// One position with everything that does not depend on which findings are present.
struct Place {
  double x, y;  // anatomy units
  double xm;    // from the midline
  int side;     // index into lungs
  double xs;    // from the midline towards the side
  double lung;  // in [0, 1]: lung shape before heart and mediastinum
};

Place place_at(const Scene& scene, double x, double y) {
  const Anatomy& anatomy = scene.anatomy;
  Place place{x, y, x - midline(anatomy, y), 0, 0, 0};
  place.side = place.xm < 0 ? 0 : 1;
  place.xs = std::abs(place.xm);
  place.lung = in_lung(anatomy.lungs[static_cast<std::size_t>(place.side)], place.xs, y, scene.pose.breath);
  return place;
}

int sign_of(int side_index) { return side_index == 0 ? -1 : 1; }

double body_edge(const Anatomy& anatomy, double y) {
  // Neck, shoulders on a quarter ellipse, then a trunk that widens slightly.
  const double rise = anatomy.shoulder_y - y;
  if (rise <= 0) return anatomy.body_width * (1 + 0.04 * (y - anatomy.shoulder_y));
  const double t = std::min(rise / 0.36, 1.0);
  return std::max(anatomy.neck_width, anatomy.body_width * std::sqrt(std::max(0.0, 1 - t * t)));
}

double ribs(const Anatomy& anatomy, double xs, double y) {
  const double phase = (y - anatomy.rib_slope * xs + 0.5 * xs * xs) / anatomy.rib_spacing + anatomy.rib_phase;
  const double t = std::abs(phase - std::floor(phase) - 0.5);  // 0 in the middle of a rib
  return smooth(0.19 - t, 0.16);
}

/// Layers at one position that findings change; see `compose`.
struct Layers {
  double background = 0;  // density without lungs and findings
  double outside = 0;     // 1 outside the body
  double lung = 0, depth = 0, vessels = 0;
  double centre = 0, centre_large = 0;  // heart and mediastinum, as they are and with the enlarged heart
  double fluid = 0, consolidation = 0, free_air = 0, free_gain = 0, pleura = 0, nodule = 0, device = 0;
};

double fluid_at(const Scene& scene, const Effusion& effusion, const Place& place) {
  if (sign_of(place.side) != effusion.side || place.lung == 0) return 0;
  const Lung& lung = scene.anatomy.lungs[static_cast<std::size_t>(place.side)];
  switch (effusion.kind) {
    case Effusion::Kind::kFree: {
      const double lateral = (place.xs - lung.cx) / lung.ax;
      const double level = effusion.level - effusion.rise * lateral * std::abs(lateral);
      return effusion.opacity * smooth(place.y - level, 0.07);
    }
    case Effusion::Kind::kVeil:
      return effusion.opacity * smooth(place.y - effusion.level, 0.5);
    case Effusion::Kind::kLoculated:
      return effusion.opacity *
             smooth(inside_ellipse(place.xm - effusion.pocket.centre.x, place.y - effusion.pocket.centre.y,
                                   effusion.pocket.radius, effusion.pocket.edge),
                    0.05);
  }
  return 0;
}

double consolidation_at(const Scene& scene, const Consolidation& patch, const Place& place) {
  if (sign_of(place.side) != patch.side || place.lung == 0) return 0;
  const double ragged = texture(scene.anatomy, place.x + 1.7, place.y, 6);
  if (patch.lobar)
    return patch.opacity * (1 + 0.2 * ragged) * smooth(place.y - patch.top + 0.03 * ragged, 0.05) *
           smooth(patch.bottom - place.y + 0.03 * ragged, 0.16);
  const double dx = place.xm - patch.centre.x, dy = place.y - patch.centre.y;
  const double c = std::cos(patch.angle), s = std::sin(patch.angle);
  const double distance = inside_ellipse(c * dx + s * dy, c * dy - s * dx, patch.rx, patch.ry);
  return patch.opacity * (1 + 0.2 * ragged) * smooth(distance + 0.08 * ragged, patch.edge);
}

void add_pneumothorax(const Pneumothorax& air, const Place& place, Layers& layers) {
  if (sign_of(place.side) != air.side || place.lung == 0) return;
  if (air.basal) {
    layers.free_air = std::max(layers.free_air,
                               place.lung * smooth(place.xs - air.basal_x, 0.08) * smooth(place.y - air.basal_y, 0.12));
  } else {
    const double edge =
        inside_ellipse(place.xs - air.collapsed.cx, place.y - air.collapsed.cy, air.collapsed.ax, air.collapsed.ay);
    layers.free_air = std::max(layers.free_air, place.lung * smooth(-edge, kEdge));
    layers.pleura = std::max(layers.pleura, place.lung * smooth(0.012 - std::abs(edge), 0.02));
  }
  layers.free_gain = air.lucency;
}

double device_at(const Device& device, double x, double y) {
  double nearest = 10;
  for (std::size_t i = 1; i < device.line.size(); ++i)
    nearest = std::min(nearest, distance_to_segment(device.line[i - 1], device.line[i], x, y));
  double value = smooth(0.5 * device.width - nearest, 0.02);
  if (device.box) {
    const double outside =
        std::max(std::abs(x - device.box_centre.x) - device.box_w, std::abs(y - device.box_centre.y) - device.box_h);
    value = std::max(value, smooth(-outside, 0.03));
  }
  return value * device.density;
}

Layers layers_at(const Scene& scene, double x, double y) {
  const Anatomy& a = scene.anatomy;
  const Pose& pose = scene.pose;
  Layers layers;
  const double edge = body_edge(a, y);
  const double body = smooth(edge - std::abs(x), 0.04);
  layers.outside = 1 - body;
  // Devices may lie over the neck and beside the body.
  for (const auto& device : scene.lesions.devices) layers.device = std::max(layers.device, device_at(device, x, y));
  if (body == 0) return layers;

  const Place place = place_at(scene, x, y);
  const double rim = std::clamp(std::abs(x) / edge, 0.0, 1.0);
  layers.background = body * a.tissue * (0.82 + 0.18 * std::sqrt(1 - rim * rim));
  layers.depth = a.lung_depth;
  layers.lung = place.lung;

  // Midline: mediastinum with aortic knob and trachea, spine behind everything.
  const double width = a.mediastinum_width * (1 + 0.25 * smooth(y + 0.05, 0.5));
  double centre = smooth(width - place.xs, kEdge);
  centre = std::max(centre, smooth(inside_ellipse(place.xm - width, y + 0.32, a.knob, a.knob * 1.2), kEdge));
  Heart heart = scene.anatomy.heart;
  heart.cy += 0.5 * pose.breath;
  if (pose.ap) heart.rx *= 1.06;
  layers.centre = std::max(centre, in_heart(heart, place.xm, y));
  layers.centre_large = layers.centre;
  if (scene.lesions.cardiomegaly)
    layers.centre_large = std::max(layers.centre, in_heart(scene.lesions.large_heart, place.xm, y));
  const double disc = y * 7 - std::floor(y * 7);
  layers.background += 0.025 * body * smooth(0.1 - place.xs, 0.05) * (disc < 0.75 ? 1.0 : 0.3);
  layers.background -= a.trachea * smooth(0.045 - std::abs(place.xm + 0.01), 0.03) * smooth(-0.12 - y, 0.15);

  // Chest wall: ribs over the lungs, clavicles, breasts, abdomen.
  const Lung& lung = a.lungs[static_cast<std::size_t>(place.side)];
  const double cage = smooth(lung.cx + lung.ax + 0.04 - place.xs, 0.1) * smooth(lung.dome + 0.12 - y, 0.12) *
                      smooth(place.xs - 0.1, 0.1) * smooth(y + 0.72, 0.1);
  if (cage > 0) layers.background += body * a.rib_density * cage * ribs(a, place.xs, y);
  const double clavicle = y - a.clavicle_y + a.clavicle_slope * place.xs;
  if (std::abs(clavicle) < 0.08 && place.xs > 0.06 && place.xs < 0.8)
    layers.background += body * a.clavicle_density * smooth(0.025 - std::abs(clavicle), 0.03);
  if (a.breast_density > 0)
    layers.background +=
        body * a.breast_density *
        smooth(inside_ellipse(place.xs - lung.cx, y - a.breast_y, a.breast_radius * 1.15, a.breast_radius), 0.12);
  layers.background += 0.05 * body * smooth(y - dome_at(lung, place.xs, pose.breath), 0.1);

  if (place.lung > 0) {
    const double root = std::exp(-3.5 * std::sqrt(square(place.xs - 0.16) + square(y + 0.02)));
    layers.vessels = a.vessel_density * (0.6 * texture(a, x, y, 5) + 0.7 * texture(a, x + 2.3, y, 11)) * (0.5 + root) +
                     a.hilum * root;
    for (const auto& vessel : pose.vessels) layers.vessels += blob(vessel, place.xm, y);
  }

  for (const auto& effusion : scene.lesions.effusions)
    layers.fluid = std::max(layers.fluid, fluid_at(scene, effusion, place));
  for (const auto& patch : scene.lesions.consolidations)
    layers.consolidation = std::max(layers.consolidation, consolidation_at(scene, patch, place));
  for (const auto& air : scene.lesions.pneumothoraces) add_pneumothorax(air, place, layers);
  for (const auto& nodule : scene.lesions.nodules) layers.nodule = std::max(layers.nodule, blob(nodule, place.xm, y));
  return layers;
}

/// Density in about [0, 1]: tissue, minus what the air in the lungs takes away, plus what lies over it.
double compose(const Layers& layers, const Present& present) {
  const double centre = present[1] ? layers.centre_large : layers.centre;
  const double fluid = present[0] ? layers.fluid : 0;
  const double solid = present[3] ? layers.consolidation : 0;
  const double free_air = present[4] ? layers.free_air : 0;
  const double air = layers.lung * (1 - centre) * (1 - fluid) * (1 - solid);
  double density = layers.background + 0.06 * centre * (1 - layers.outside);
  density -= layers.depth * air * (1 + layers.free_gain * free_air);
  density += air * layers.vessels * (1 - free_air);
  if (present[4]) density += 0.05 * air * layers.pleura;
  if (present[2]) density += layers.nodule * layers.lung;
  if (present[5]) density += layers.device;
  return density;
}

// ---- drawing a scene ----

constexpr double kRadians = 0.017453292519943295;

Anatomy draw_anatomy(std::uint64_t seed, std::uint64_t patient) {
  RandomStream random(seed, patient, "anatomy");
  Anatomy a;
  a.body_width = random.uniform(0.82, 0.98);
  a.shoulder_y = random.uniform(-0.72, -0.5);
  a.neck_width = random.uniform(0.2, 0.3);
  a.tissue = random.uniform(0.68, 0.82);
  a.lung_depth = random.uniform(0.3, 0.48);
  a.mediastinum_width = random.uniform(0.11, 0.19);
  a.tilt = random.uniform(-0.05, 0.05);
  a.curve = random.uniform(-0.06, 0.06);
  const double height = random.uniform(0.52, 0.72), width = random.uniform(0.27, 0.34);
  const double base = random.uniform(0.22, 0.46);
  const double raised = random.uniform() < 0.25 ? random.uniform(-0.18, 0.18) : 0;  // a high hemidiaphragm
  for (int side = 0; side < 2; ++side) {
    Lung& lung = a.lungs[static_cast<std::size_t>(side)];
    lung.ax = width * random.uniform(0.93, 1.07);
    lung.ay = height * random.uniform(0.95, 1.05);
    lung.cx = 0.12 + lung.ax * random.uniform(0.9, 1.05);
    lung.cy = random.uniform(-0.06, 0.04);
    // The liver keeps the patient's right dome (left in the image) a little higher.
    lung.dome = base + (side == 0 ? -0.03 : 0.02) + (side == 0 ? raised : 0) - (side == 1 ? raised : 0) * 0.5;
    lung.dome = std::min(lung.dome, lung.cy + 0.85 * lung.ay);
    lung.drop = random.uniform(0.06, 0.14);
    lung.dome_x = lung.cx - 0.25 * lung.ax;
  }
  const double thorax = a.lungs[0].cx + a.lungs[0].ax + a.lungs[1].cx + a.lungs[1].ax;
  a.heart.rx = 0.5 * thorax * random.uniform(0.37, 0.49);
  a.heart.ry = a.heart.rx * random.uniform(0.75, 0.95);
  a.heart.cx = random.uniform(0.03, 0.12);
  a.heart.cy = base - a.heart.ry * random.uniform(0.5, 0.75);
  a.knob = random.uniform(0.06, 0.12);
  a.trachea = random.uniform(0.03, 0.09);
  a.hilum = random.uniform(0.05, 0.16);
  a.rib_spacing = random.uniform(0.15, 0.21);
  a.rib_phase = random.uniform();
  a.rib_slope = random.uniform(0.1, 0.4);
  a.rib_density = random.uniform(0.015, 0.06);
  a.clavicle_y = random.uniform(-0.52, -0.38);
  a.clavicle_slope = random.uniform(0.0, 0.25);
  a.clavicle_density = random.uniform(0.02, 0.08);
  a.breast_y = random.uniform(0.12, 0.38);
  a.breast_radius = random.uniform(0.18, 0.3);
  a.breast_density = random.uniform() < 0.45 ? random.uniform(0.03, 0.1) : 0;
  a.vessel_density = random.uniform(0.06, 0.16);
  for (auto& value : a.texture) value = static_cast<float>(random.uniform(-1, 1));
  return a;
}

/// A point well inside the aerated part of a lung, in midline coordinates (x - midline, y).
Point point_in_lung(const Scene& scene, int side_index, RandomStream& random, double margin) {
  const Lung& lung = scene.anatomy.lungs[static_cast<std::size_t>(side_index)];
  Heart heart = scene.anatomy.heart;
  heart.rx += margin;
  Point best{sign_of(side_index) * lung.cx, lung.cy};
  for (int attempt = 0; attempt < 64; ++attempt) {
    const double xs = lung.cx + lung.ax * random.uniform(-1, 1);
    const double y = random.uniform(lung.cy - lung.ay, lung.dome + lung.drop);
    const bool inside = inside_ellipse(xs - lung.cx, y - lung.cy, lung.ax, lung.ay) > margin &&
                        dome_at(lung, xs, scene.pose.breath) - y > margin;
    const double x = sign_of(side_index) * xs;
    if (inside && xs > scene.anatomy.mediastinum_width + margin && in_heart(heart, x, y) == 0) return {x, y};
  }
  return best;
}

void draw_pose(Scene& scene, std::uint64_t seed, std::uint64_t item) {
  RandomStream random(seed, item, "pose");
  Pose& pose = scene.pose;
  pose.dx = random.uniform(-0.06, 0.06);
  pose.dy = random.uniform(-0.07, 0.07);
  pose.scale = random.uniform(0.92, 1.06);
  pose.angle = random.uniform(-5, 5) * kRadians;
  pose.breath = random.uniform(-0.06, 0.06);
  pose.gain = random.uniform(0.85, 1.15);
  pose.offset = random.uniform(-0.14, 0.14);
  pose.gradient_x = random.uniform(-0.1, 0.1);
  pose.gradient_y = random.uniform(-0.1, 0.1);
  pose.noise = random.uniform(0.02, 0.07);
  pose.ap = random.uniform() < 0.3;
  const auto count = random.below(4);
  for (std::uint32_t i = 0; i < count; ++i) {
    const Point centre = point_in_lung(scene, static_cast<int>(random.below(2)), random, 0.03);
    pose.vessels.push_back({centre, random.uniform(0.02, 0.045), 0.03, random.uniform(0.04, 0.12)});
  }
}

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

double largest_difference(const std::vector<float>& a, const std::vector<float>& b) {
  double largest = 0;
  for (std::size_t i = 0; i < a.size(); ++i) largest = std::max(largest, std::abs(static_cast<double>(a[i]) - b[i]));
  return largest;
}

/// Which of the present findings change the image enough to be seen.
Present visible(const Scene& scene) {
  constexpr double kVisible = 0.15;  // of pixel values that span 2
  const auto renders = render(scene, 32, 1);
  Present seen{};
  for (std::size_t f = 0; f < kFindingCount; ++f)
    seen[f] = scene.present[f] && largest_difference(renders[kWithAll], renders[f]) >= kVisible;
  return seen;
}

}  // namespace

Scene make_scene(const PhantomOptions& options, std::uint64_t patient, std::uint64_t image) {
  const std::uint64_t item = item_key(patient, image);
  Scene scene;
  scene.anatomy = draw_anatomy(options.seed, patient);
  draw_pose(scene, options.seed, item);
  RandomStream planting(options.seed, item, "findings");
  for (auto& present : scene.present) present = planting.uniform() < options.prevalence;
  Present seen{};
  for (std::uint64_t attempt = 0; attempt < 32 && seen != scene.present; ++attempt) {
    scene.lesions = {};
    for (std::size_t f = 0; f < kFindingCount; ++f)
      if (scene.present[f]) kDraw[f](scene, RandomStream(options.seed, item * 64 + attempt, phantom_findings()[f]));
    seen = visible(scene);
  }
  scene.present = seen;  // a label must never claim what cannot be seen
  return scene;
}

std::array<std::vector<float>, kFindingCount + 2> render(const Scene& scene, int size, int supersampling) {
  constexpr Present kNone{};
  std::array<std::vector<float>, kFindingCount + 2> renders;
  std::vector<std::pair<std::size_t, Present>> wanted = {{kWithAll, scene.present}, {kWithNone, kNone}};
  for (std::size_t f = 0; f < kFindingCount; ++f) {
    if (!scene.present[f]) continue;
    auto without = scene.present;
    without[f] = false;
    wanted.emplace_back(f, without);
  }
  for (const auto& entry : wanted) renders[entry.first].resize(static_cast<std::size_t>(size) * size);

  const Pose& pose = scene.pose;
  const double c = std::cos(pose.angle) / pose.scale, s = std::sin(pose.angle) / pose.scale;
  const double step = 2.0 / (static_cast<double>(size) * supersampling);
  const double weight = 1.0 / (static_cast<double>(supersampling) * supersampling);
  std::array<double, kFindingCount + 2> sums{};
  for (int row = 0; row < size; ++row) {
    for (int column = 0; column < size; ++column) {
      sums.fill(0);
      for (int j = 0; j < supersampling; ++j) {
        for (int i = 0; i < supersampling; ++i) {
          const double u = -1 + (column * supersampling + i + 0.5) * step - pose.dx;
          const double v = -1 + (row * supersampling + j + 0.5) * step - pose.dy;
          const Layers layers = layers_at(scene, c * u + s * v, c * v - s * u);
          const double exposure = 1 + pose.gradient_x * u + pose.gradient_y * v;
          for (const auto& [index, present] : wanted) sums[index] += exposure * compose(layers, present);
        }
      }
      const std::size_t pixel = static_cast<std::size_t>(row) * size + static_cast<std::size_t>(column);
      for (const auto& entry : wanted)
        renders[entry.first][pixel] =
            static_cast<float>(-0.9 + pose.offset + pose.gain * 1.6 * weight * sums[entry.first]);
    }
  }
  return renders;
}

}  // namespace daug::phantom
