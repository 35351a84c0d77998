// Quadratic penalties on the CPU: who does what.
#include "../cpu.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <vector>

#include "call.h"

namespace ftbench {
namespace {

// Asks for the first lines of a term's tensors: a small one would be waited for longer than it is
// worked on.
void fetch_start(const Term& term) {
  const void* const starts[] = {term.parameter, term.anchor, term.weights, term.gradient};
  for (const void* start : starts) {
    for (int line = 0; start && line < 4; ++line) {
      __builtin_prefetch(static_cast<const char*>(start) + 64 * line);
    }
  }
}

}  // namespace

double penalty_on_cpu(const PenaltyCall& call, double scale) {
  std::vector<double> partials(call.blocks());
  const int64_t count = static_cast<int64_t>(call.terms.size());
  const int64_t shares =
      std::clamp<int64_t>(call.elements.back() / kBlock, 1, at::get_num_threads());
  const auto run = [&](int64_t first, int64_t last) {
    const int64_t end = call.first_block(last, shares);
    for (int64_t block = call.first_block(first, shares); block < end; ++block) {
      const int64_t index = term_of(call.starts.data(), count, block);
      const Term& term = call.terms[index];
      const int64_t begin = (block - call.starts[index]) * kBlock;
      if (begin == 0 && index + 2 < count) fetch_start(call.terms[index + 2]);
      partials[block] = kernels().penalty_block(term, begin, std::min(begin + kBlock, term.size),
                                                scale);
    }
  };
  at::parallel_for(0, shares, 1, run);
  double sum = 0.0;
  for (const double partial : partials) sum += partial;
  return 0.5 * sum;
}

}  // namespace ftbench
