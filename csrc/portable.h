// What both compilers read: no torch headers, nothing beyond the language.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#define FTBENCH_SHARED __host__ __device__ __forceinline__
#else
#define FTBENCH_SHARED inline
#endif
