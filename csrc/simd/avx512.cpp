#define FTBENCH_ISA 2
#define FTBENCH_TARGET "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl"
#define FTBENCH_NAME "avx512"
#define FTBENCH_KERNELS kernels_avx512
#include "compile.h"
