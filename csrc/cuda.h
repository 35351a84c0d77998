// Launching the GPU's programs. No headers but those of the
// toolkit's compiler and c10's numbers, so that the compiler's toolkit is enough.
#pragma once

#include <cuda_runtime_api.h>

#include "mix/program.h"
#include "penalty/program.h"

namespace ftbench {

// What one launch takes as its argument; a call with more terms is cut into several.
#if CUDART_VERSION >= 12010
constexpr int kTermsPerLaunch = 384;
#else
constexpr int kTermsPerLaunch = 48;  // arguments had 4 KiB at most
#endif

struct TermTable {
  Term terms[kTermsPerLaunch];
  int64_t starts[kTermsPerLaunch + 1];  // the first block of each, and their number
  int64_t count;
};

cudaError_t launch_mix(const Mix& mix, const Normalization& norm, cudaStream_t stream);
cudaError_t launch_label_weight(const float* weight, const int32_t* box, int64_t batch,
                                int64_t height, int64_t width, float* out, cudaStream_t stream);
// partials[kGroupsPerBlock · i …] become the sums of the parts of block i of the table.
cudaError_t launch_penalty(const TermTable& table, double scale, double* partials,
                           cudaStream_t stream);
// Half the sum of the partials, always in one order.
cudaError_t launch_total(const double* partials, int64_t count, void* value, bool in_double,
                         cudaStream_t stream);

}  // namespace ftbench
