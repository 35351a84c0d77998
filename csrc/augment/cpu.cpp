// Views on the CPU: who makes which.
#include "../cpu.h"

#include <ATen/Parallel.h>

#include <memory>
#include <vector>

#include "call.h"

namespace ftbench {

void augment_on_cpu(const Augment& call) {
  const int64_t threads = at::in_parallel_region() ? 1 : at::get_num_threads();
  std::vector<int32_t> waiting(call.partner ? call.batch : 0);
  std::vector<Turn> turns(call.partner ? call.batch : 0);
  // A view is made once and mixed twice where its partner's turn comes next.
  if (call.partner) order_turns(call.partner, call.batch, waiting.data(), turns.data());
  const Turn* order = call.partner ? turns.data() : nullptr;
  const Kernels& serving = kernels();
  const auto run = [&](int64_t begin, int64_t end) {
    const std::unique_ptr<float[]> scratch(new float[serving.augment_scratch(call)]);
    serving.augment_turns(call, order, scratch.get(), begin, end);
  };
  if (threads == 1) return run(0, call.batch);
  at::parallel_for(0, call.batch, 1, run);
}

}  // namespace ftbench
