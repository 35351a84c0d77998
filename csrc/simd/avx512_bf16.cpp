#define FTBENCH_ISA 3
#define FTBENCH_TARGET "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16"
#define FTBENCH_NAME "avx512_bf16"
#define FTBENCH_KERNELS kernels_avx512_bf16
#include "compile.h"
