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
      if (scene.present[f]) plant(scene, f, RandomStream(options.seed, item * 64 + attempt, phantom_findings()[f]));
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
