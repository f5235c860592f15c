#include <palimpsest/core/kernel.hpp>

#include <cstdlib>

namespace palimpsest {
namespace {

Isa strongest() {
#if defined(PALIMPSEST_X86_KERNELS)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  return avx512 ? Isa::Avx512 : avx2 ? Isa::Avx2 : Isa::Generic;
#else
  return Isa::Generic;
#endif
}

Isa choose() {
  const Isa best = strongest();
  const char* wish = std::getenv("PALIMPSEST_ISA");
  if (wish == nullptr) return best;
  for (const Isa isa : {Isa::Generic, Isa::Avx2}) {
    if (wish == to_string(isa) && isa < best) return isa;
  }
  return best;
}

}  // namespace

Isa cpu_isa() {
  static const Isa isa = choose();
  return isa;
}

}  // namespace palimpsest
