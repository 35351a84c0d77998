#define FTBENCH_ISA 1
#define FTBENCH_TARGET "avx2,fma,f16c"
#define FTBENCH_NAME "avx2"
#define FTBENCH_KERNELS kernels_avx2
#include "compile.h"
