#define FTBENCH_ISA 0
#define FTBENCH_NAME "baseline"
#define FTBENCH_KERNELS kernels_baseline
#include "compile.h"
