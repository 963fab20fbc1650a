// The exponential of the kernels. Included once for every instruction set, as Highway's own -inl.h files.
#if defined(DAUG_KERNELS_EXP_INL_H) == defined(HWY_TARGET_TOGGLE)
#ifdef DAUG_KERNELS_EXP_INL_H
#undef DAUG_KERNELS_EXP_INL_H
#else
#define DAUG_KERNELS_EXP_INL_H
#endif

#include "kernels/cpu/lanes-inl.h"

HWY_BEFORE_NAMESPACE();
namespace daug::kernels::HWY_NAMESPACE {

/// e^-y for |y| <= 87 to 2e-7: 2^n e^r with n the integer nearest to -y / ln 2, and e^r by a polynomial (Cody and
/// Waite, 1980, for the reduction). Highway's own Exp covers all of float32 and takes twice as long.
template <class Tag, class V>
HWY_INLINE V exp_of_minus(Tag tag, V y) {
  const hn::RebindToUnsigned<Tag> bits;
  // Added to a number below 2^22 this leaves its nearest integer in the low bits.
  const V magic = hn::Set(tag, 12582912.0F);
  const V shifted = hn::NegMulAdd(y, hn::Set(tag, 1.442695041F), magic);
  const V n = hn::Sub(shifted, magic);
  // The first part of ln 2 has so few bits that its product with n is exact.
  const V minus_r = hn::MulAdd(n, hn::Set(tag, 1.428606765e-6F), hn::MulAdd(n, hn::Set(tag, 0.693145751953125F), y));
  V p = hn::Set(tag, 0.00140616042F);
  for (const float coefficient : {0.00837910734F, 0.041664768F, 0.166663647F, 0.50000006F, 1.0F, 1.0F})
    p = hn::NegMulAdd(p, minus_r, hn::Set(tag, coefficient));
  return hn::BitCast(tag, hn::Add(hn::BitCast(bits, p), hn::ShiftLeft<23>(hn::BitCast(bits, shifted))));
}

}  // namespace daug::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
