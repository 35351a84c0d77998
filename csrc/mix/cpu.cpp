// Mixing on the CPU: who does what.
#include "../cpu.h"

#include <ATen/Parallel.h>

#include <memory>
#include <vector>

#include "call.h"

namespace ftbench {

constexpr int64_t kWorthThreads = 32768;  // values; fewer are done before threads have begun

void mix_on_cpu(const Mix& mix) {
  const int64_t values = mix.batch * mix.channels * mix.pixels();
  const int64_t threads =
      values < kWorthThreads || at::in_parallel_region() ? 1 : at::get_num_threads();
  const Tiles tiles = cut(mix, threads, last_cache_bytes());
  std::vector<int32_t> waiting(mix.batch);
  std::vector<Turn> turns(mix.batch);
  order_turns(mix.partner, mix.batch, waiting.data(), turns.data());
  // In place a tile's turns must follow each other; otherwise any thread may do any of them.
  const int64_t apart = mix.in_place() ? mix.batch : 1;
  const auto run = [&](int64_t begin, int64_t end) {
    const std::unique_ptr<float[]> scratch(new float[tiles.scratch]);
    kernels().mix_tiles(mix, tiles, turns.data(), scratch.get(), begin * apart, end * apart);
  };
  const int64_t shares = tiles.count * mix.batch / apart;
  if (threads == 1) return run(0, shares);
  at::parallel_for(0, shares, 1, run);
}

}  // namespace ftbench
