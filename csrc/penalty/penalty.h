// Quadratic penalties: the blocks that sums are cut into, whatever the threads or the launch.
#pragma once

#include "../portable.h"

namespace ftbench {

enum class Number : int8_t { kFloat, kHalf, kBFloat16, kDouble };

// One parameter's part of ½ Σ s (θ − a)². All of its tensors have `size` elements in one order; all
// are in float64, or none.
struct Term {
  const void* parameter;
  const void* anchor;    // null: zero
  const void* weights;   // null: `strength` for every element
  void* gradient;        // null: only the value is wanted
  Number parameter_type, anchor_type, weights_type, gradient_type;
  double strength;
  int64_t size;
};

FTBENCH_SHARED bool all_are(const Term& term, Number type) {
  return term.parameter_type == type && (!term.anchor || term.anchor_type == type) &&
         (!term.weights || term.weights_type == type) &&
         (!term.gradient || term.gradient_type == type);
}

// Sums are taken over blocks of this many elements, and blocks are added in order, in float64: the
// same bits for any number of threads.
constexpr int64_t kBlock = 65536;

FTBENCH_SHARED int64_t blocks_of(int64_t size) { return (size + kBlock - 1) / kBlock; }

// The term that a block, or an element, belongs to, given the number of the first of each term and,
// at the end, of all: starts[0] = 0 < starts[1] < …
FTBENCH_SHARED int64_t term_of(const int64_t* starts, int64_t terms, int64_t block) {
  int64_t low = 0, high = terms;
  while (high - low > 1) {
    const int64_t middle = low + (high - low) / 2;
    if (starts[middle] <= block) {
      low = middle;
    } else {
      high = middle;
    }
  }
  return low;
}

}  // namespace ftbench
