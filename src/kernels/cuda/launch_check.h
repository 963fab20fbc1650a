#pragma once
// Whose fault an error of a device is, and whether kernels are waited for to find out. Host code, tested without a
// device.

#include <atomic>
#include <cstring>

namespace daug::kernels::cuda {

/// Whether a switch in the environment is on: neither absent, nor empty, nor 0.
inline bool switched_on(const char* value) { return value && *value && std::strcmp(value, "0") != 0; }

/// Whether every kernel is waited for after its launch, one answer for the whole program. At first as the variable
/// DAUG_CHECK_KERNELS says.
std::atomic<bool>& checks_kernels();

/// Whether an error (a cudaError_t) is one of work that ran on a device, which whatever call comes next reports; the
/// device answers all later calls of the process with it.
inline bool is_fault(int error) {
  switch (error) {
    case 214:  // uncorrectable memory error
    case 220:  // uncorrectable error of a link between devices
    case 226:  // an error that the device contained
    case 700:  // illegal address
    case 702:  // a kernel ran too long
    case 709:  // the context is gone
    case 710:  // a failed assertion
    case 714:  // hardware stack
    case 715:  // illegal instruction
    case 716:  // misaligned address
    case 717:  // address space
    case 718:  // program counter
    case 719:  // any other failure of a kernel
    case 721:  // tensor memory
    case 999:  // unknown
      return true;
    default:
      return false;
  }
}

/// Whether an error (a cudaError_t) is one of too little memory: with the device full, that of a kernel's first launch,
/// which loads it.
inline bool is_shortage(int error) { return error == 2; }

}  // namespace daug::kernels::cuda
