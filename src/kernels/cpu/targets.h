#pragma once
// The instruction sets the kernels and the scans of the index are compiled for. Comes before every header of Highway.
//
// SVE and RVV have vectors of unknown length; SSSE3 has nothing over SSE4 but age, nor AVX3_DL over AVX3 that would
// show.

#if defined(DAUG_AVX512)
#define DAUG_UNWANTED_TARGETS HWY_AVX3_DL
#else
#define DAUG_UNWANTED_TARGETS (HWY_AVX3 | HWY_AVX3_DL)
#endif
// A sanitizer sees in loops over SSE4's and AVX-512's vectors what it sees with AVX2's and the emulated ones; half of
// the time to compile kernels under it.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define DAUG_REPEATED_TARGETS (HWY_SSE4 | HWY_AVX3)
#else
#define DAUG_REPEATED_TARGETS 0
#endif
#define HWY_DISABLED_TARGETS                                                                       \
  (HWY_SSSE3 | HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128 | HWY_RVV | DAUG_UNWANTED_TARGETS | \
   DAUG_REPEATED_TARGETS)
