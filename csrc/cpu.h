// The CPU's kernels: one table for each instruction set, and the one that is in use.
#pragma once

#include <string>
#include <vector>

#include "augment/augment.h"
#include "mix/tiles.h"
#include "penalty/penalty.h"

namespace ftbench {

struct Kernels {
  const char* name;
  // Mixes parts [begin, end) of a batch, tile · batch + turn, each a tile of one image; `scratch` has
  // tiles.scratch floats.
  void (*mix_tiles)(const Mix&, const Tiles&, const Turn*, float* scratch, int64_t begin,
                    int64_t end);
  // Adds scale · s (θ − a) to elements [begin, end) of the gradient, where there is one; returns
  // their Σ s (θ − a)².
  double (*penalty_block)(const Term&, int64_t begin, int64_t end, double scale);
  // Makes the views of turns [begin, end), or of images where `turns` is null; `scratch` has
  // augment_scratch() floats.
  void (*augment_turns)(const Augment&, const Turn* turns, float* scratch, int64_t begin,
                        int64_t end);
  int64_t (*augment_scratch)(const Augment&);
};

// The best that this processor has, or what FTBENCH_ISA or use_instruction_set() names.
const Kernels& kernels();
void use_instruction_set(const std::string& name);
std::vector<std::string> instruction_sets();

// Whether to prefetch where several arrays are read at once. AMD's Zen 4 loses 10 to 18 % of its time
// to it; on Intel's processors, where it was not compared, it stays.
bool prefetch_pays();

// The cores that this process may use, by its affinity and its container's quota; and that quota,
// from a file as Linux writes it: microseconds and their period. 0 where there is none.
int64_t usable_cores();
int64_t quota_cores(const std::string& path);

// What a process with so many cores can count on of a last cache that is reported to have so many
// bytes; 0 where that is not known. A virtual machine reports its host's cache, of which it has a
// few cores' share: 480 MiB for two cores were seen.
int64_t cache_share(int64_t reported_bytes, int64_t cores);

// This process's share of the last cache. Batches of one and a half times its size, with their
// results, are written past it.
int64_t last_cache_bytes();
void set_last_cache_bytes(int64_t bytes);

}  // namespace ftbench
