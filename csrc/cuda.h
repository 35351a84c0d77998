// Launching the GPU's kernels. No headers but those of the toolkit's compiler and c10's numbers, so
// that the compiler's toolkit is enough. Tests compile the same for the CPU: FTBENCH_EMULATION is
// their header with CUDA's words, FTBENCH_GPU the namespace.
#pragma once

#if defined(FTBENCH_EMULATION)
#include FTBENCH_EMULATION
#else
#include <cuda_runtime_api.h>
#define FTBENCH_GPU gpu
#define FTBENCH_LARGE_ARGUMENT(Type) const __grid_constant__ Type
#define FTBENCH_STATIC_SHARED(Type, name) __shared__ Type name
#define FTBENCH_DYNAMIC_SHARED(Type, name) extern __shared__ Type name[]
#endif

#include "augment/program.h"
#include "mix/program.h"
#include "penalty/program.h"

namespace ftbench::FTBENCH_GPU {

cudaError_t launch_mix(const Mix& mix, const Normalization& norm, cudaStream_t stream);
cudaError_t launch_augment(const Augment& call, const Normalization& norm, cudaStream_t stream);
cudaError_t launch_label_weight(const float* weight, const int32_t* box, int64_t batch,
                                int64_t height, int64_t width, float* out, cudaStream_t stream);
// starts[i] is the first block of terms[i], starts[count] their number; partials, kGroupsPerBlock
// for each block, are scratch. The value is a double or a float.
cudaError_t launch_penalty(const Term* terms, const int64_t* starts, int64_t count, double scale,
                           double* partials, void* value, bool in_double, cudaStream_t stream);

#if defined(__CUDACC__)
template <class... Parameters, class... Arguments>
cudaError_t launch(void (*kernel)(Parameters...), int64_t grid, int threads, size_t bytes,
                   cudaStream_t stream, const Arguments&... arguments) {
  kernel<<<static_cast<unsigned>(grid), threads, bytes, stream>>>(arguments...);
  return cudaGetLastError();
}
#endif

}  // namespace ftbench::FTBENCH_GPU
