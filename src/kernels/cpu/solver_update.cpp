#include "kernels/solver_update.h"

#include <algorithm>
#include <array>
#include <utility>

#include "kernels/cpu/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/solver_update.cpp"
#include <hwy/foreach_target.h>
// After foreach_target.h.
#include <hwy/highway.h>

#include "kernels/cpu/lanes-inl.h"

HWY_BEFORE_NAMESPACE();
namespace daug::kernels::HWY_NAMESPACE {

/// The estimate whose clean image is held in [-1, 1]. Where nothing is cut off the estimate stays as it is, bit for
/// bit, which dividing by a small deviation would not leave it; elsewhere nothing of it is left, be it infinite.
template <class Tag, class V>
HWY_INLINE V clipped(Tag tag, V x, V estimate, const SolverUpdate& u) {
  const auto factor = [tag](double value) HWY_ATTR { return hn::Set(tag, static_cast<float>(value)); };
  const V clean = hn::NegMulAdd(estimate, factor(u.deviation / u.signal), hn::Mul(x, factor(1 / u.signal)));
  const V low = hn::Set(tag, -1.0F), high = hn::Set(tag, 1.0F);
  // Not by Clamp, of which a NaN may come out as a number.
  const V held = hn::IfThenElse(hn::Lt(clean, low), low, hn::IfThenElse(hn::Gt(clean, high), high, clean));
  const V implied = hn::NegMulAdd(held, factor(u.signal / u.deviation), hn::Mul(x, factor(1 / u.deviation)));
  return hn::IfThenElse(hn::Eq(held, clean), estimate, implied);
}

/// `count` elements of one lane from `start` on; what is absent costs nothing.
template <bool kSecond, bool kGradient, bool kPrevious, bool kClip>
void update_lane(const SolverUpdate& u, std::int64_t start, std::int64_t count, double strength) {
  // base + w (first - second) is first + (w - 1) (first - second) when second is the base.
  const auto apart = static_cast<float>(u.weight * strength - (u.from_second ? 1 : 0));
  const auto uphill = static_cast<float>(u.gradient_weight * strength);
  const auto keep = static_cast<float>(u.keep), add = static_cast<float>(u.add);
  const auto remembered = static_cast<float>(u.previous_weight);
  for_lanes(count, [&](auto tag, std::int64_t i) HWY_ATTR {
    const std::int64_t at = start + i;
    const auto x = hn::LoadU(tag, u.x + at);
    auto noise = hn::LoadU(tag, u.first + at);
    if constexpr (kClip) noise = clipped(tag, x, noise, u);
    if constexpr (kSecond) {
      auto second = hn::LoadU(tag, u.second + at);
      if constexpr (kClip) second = clipped(tag, x, second, u);
      noise = hn::MulAdd(hn::Sub(noise, second), hn::Set(tag, apart), noise);
    }
    if constexpr (kGradient) noise = hn::NegMulAdd(hn::LoadU(tag, u.gradient + at), hn::Set(tag, uphill), noise);
    const auto kept = keep == 0 ? hn::Zero(tag) : hn::Mul(x, hn::Set(tag, keep));
    auto result = hn::MulAdd(noise, hn::Set(tag, add), kept);
    if constexpr (kPrevious) result = hn::MulAdd(hn::LoadU(tag, u.previous + at), hn::Set(tag, remembered), result);
    hn::StoreU(result, tag, u.output + at);
  });
}

using UpdateLane = void (*)(const SolverUpdate&, std::int64_t, std::int64_t, double);

template <std::size_t... kParts>
constexpr std::array<UpdateLane, sizeof...(kParts)> lane_table(std::index_sequence<kParts...>) {
  return {&update_lane<(kParts & 1) != 0, (kParts & 2) != 0, (kParts & 4) != 0, (kParts & 8) != 0>...};
}

void update_here(const SolverUpdate& u, std::int64_t begin, std::int64_t end) {
  static constexpr auto kTable = lane_table(std::make_index_sequence<16>());
  const UpdateLane update =
      kTable[(u.second ? 1U : 0U) | (u.gradient ? 2U : 0U) | (u.previous ? 4U : 0U) | (u.clip ? 8U : 0U)];
  for (std::int64_t at = begin; at < end;) {
    const std::int64_t lane = at / u.elements, count = std::min(end, (lane + 1) * u.elements) - at;
    update(u, at, count, u.strength ? u.strength[lane] : 1.0);
    at += count;
  }
}

}  // namespace daug::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace daug::kernels {

namespace {
HWY_EXPORT(update_here);
}

void solver_update(const SolverUpdate& update, const Parallel& parallel) {
  // Pieces of whole vectors of any set, so that an element is rounded alike whoever computes it.
  constexpr std::int64_t kPiece = 1024, kGrain = 32;
  const std::int64_t total = update.lanes * update.elements;
  parallel((total + kPiece - 1) / kPiece, kGrain, [&](std::int64_t begin, std::int64_t end) {
    HWY_DYNAMIC_DISPATCH(update_here)(update, begin * kPiece, std::min(total, end * kPiece));
  });
}

}  // namespace daug::kernels
#endif
