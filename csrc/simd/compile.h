// The kernels for the instruction set that FTBENCH_ISA names and FTBENCH_TARGET switches on.
//
// Function by function, not by compiler flags for the whole file: what the headers below define
// must not be compiled for a set that the processor may lack, since the linker keeps one copy of
// it for all. So every header comes first.
#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include <type_traits>

#include "../cpu.h"

#define FTBENCH_BASELINE 0
#define FTBENCH_AVX2 1
#define FTBENCH_AVX512 2
#define FTBENCH_AVX512_BF16 3

#if FTBENCH_ISA == FTBENCH_BASELINE || defined(__x86_64__)

#if FTBENCH_ISA != FTBENCH_BASELINE
#include <immintrin.h>

#define FTBENCH_QUOTE(text) #text
#define FTBENCH_PRAGMA(text) _Pragma(FTBENCH_QUOTE(text))
#if defined(__clang__)
FTBENCH_PRAGMA(clang attribute push(__attribute__((target(FTBENCH_TARGET))), apply_to = function))
#else
#pragma GCC push_options
FTBENCH_PRAGMA(GCC target(FTBENCH_TARGET))
#if FTBENCH_ISA >= FTBENCH_AVX512
#pragma GCC target("prefer-vector-width=512")
#endif
#endif
#endif

namespace ftbench {
namespace {

#include "vector.h"
// The order matters: each uses what the one before defines.
#include "../mix/span.h"
#include "../mix/kernel.h"
#include "../penalty/kernel.h"
#include "../augment/taps.h"
#include "../augment/kernel.h"

}  // namespace

extern const Kernels FTBENCH_KERNELS;
const Kernels FTBENCH_KERNELS{FTBENCH_NAME, mix_tiles, penalty_block, augment_turns, augment_scratch};

}  // namespace ftbench

#if FTBENCH_ISA != FTBENCH_BASELINE
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif

#endif
