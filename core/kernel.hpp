#pragma once

// Kernels for several instruction sets, and for CUDA, in one library. A kernel file `ops/cpu/NAME.cpp` is compiled once
// per instruction set, each time with PALIMPSEST_ISA naming the namespace its functions go to (generic, avx2, avx512)
// and PALIMPSEST_VECTOR_BYTES the width of a vector; `ops/cuda/NAME.cu` defines the same functions in the namespace
// gpu, for pointers to device memory. Their header declares the functions for all of them with PALIMPSEST_KERNELS and
// callers pick one with PALIMPSEST_RUN (any device; include core/types.hpp) or PALIMPSEST_CALL (the CPU).
//
// A kernel's contract is the same on every device, but for three things: on CUDA the call returns before the work is
// done (work of later calls waits for it), it throws DeviceError where the launch fails, and what it finds wrong in the
// data is reported later (core/cuda/device.hpp, Fault).
//
// A CPU kernel file must not instantiate inline functions or templates that other files share (std::vector, std::min
// and so on): the linker keeps one copy of such a function, and if it kept the AVX-512 one, it would fail on older
// machines.

#include <cstdint>
#include <string_view>

namespace palimpsest {

enum class Device : std::uint8_t;  // of core/types.hpp

/// Instruction sets that kernels are compiled for, weakest first.
enum class Isa { Generic, Avx2, Avx512 };

/// The strongest instruction set that this machine and this build have; the environment variable PALIMPSEST_ISA
/// (generic, avx2, avx512) lowers it. Read once.
Isa cpu_isa();

constexpr std::string_view to_string(Isa isa) {
  switch (isa) {
    case Isa::Generic:
      return "generic";
    case Isa::Avx2:
      return "avx2";
    case Isa::Avx512:
      return "avx512";
  }
  return "?";
}

}  // namespace palimpsest

/// A function that kernel files share. It is inlined everywhere, so that no instruction set gets another one's copy.
#define PALIMPSEST_INLINE [[gnu::always_inline]] constexpr

#if defined(PALIMPSEST_X86_KERNELS)
#define PALIMPSEST_KERNELS(...) \
  namespace generic {           \
  __VA_ARGS__                   \
  }                             \
  namespace avx2 {              \
  __VA_ARGS__                   \
  }                             \
  namespace avx512 {            \
  __VA_ARGS__                   \
  }                             \
  namespace gpu {               \
  __VA_ARGS__                   \
  }
#define PALIMPSEST_CALL(...)                                                                         \
  (::palimpsest::cpu_isa() == ::palimpsest::Isa::Avx512 ? ::palimpsest::kernels::avx512::__VA_ARGS__ \
   : ::palimpsest::cpu_isa() == ::palimpsest::Isa::Avx2 ? ::palimpsest::kernels::avx2::__VA_ARGS__   \
                                                        : ::palimpsest::kernels::generic::__VA_ARGS__)
#else
#define PALIMPSEST_KERNELS(...) \
  namespace generic {           \
  __VA_ARGS__                   \
  }                             \
  namespace gpu {               \
  __VA_ARGS__                   \
  }
#define PALIMPSEST_CALL(...) (::palimpsest::kernels::generic::__VA_ARGS__)
#endif

namespace palimpsest {

/// True where this build has CUDA. A call of a function of CUDA stands in an `if constexpr` of it.
#if defined(PALIMPSEST_HAS_CUDA)
inline constexpr bool compiled_for_cuda = true;
#define PALIMPSEST_RUN(device, ...) \
  ((device) == ::palimpsest::Device::Cuda ? ::palimpsest::kernels::gpu::__VA_ARGS__ : PALIMPSEST_CALL(__VA_ARGS__))
#else
inline constexpr bool compiled_for_cuda = false;
#define PALIMPSEST_RUN(device, ...) PALIMPSEST_CALL(__VA_ARGS__)
#endif

}  // namespace palimpsest
