// CUDA's words for the CPU: what cuda.cu files are written in, where no GPU compiles or runs them.
// Blocks run one after another, and each thread of a block until it waits for the others, on a stack
// of its own from then on. One launch at a time, in one process.
#pragma once

#include <setjmp.h>
#include <ucontext.h>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#define CUDART_VERSION 13000
#define FTBENCH_GPU emulated
#define FTBENCH_LARGE_ARGUMENT(Type) const Type&
#define FTBENCH_STATIC_SHARED(Type, name) Type& name = static_shared<Type>()
#define FTBENCH_DYNAMIC_SHARED(Type, name) Type* name = reinterpret_cast<Type*>(dynamic_shared.get())
#define FTBENCH_TOUCH(p, bytes) \
  ::ftbench::emulated::misaligned |= reinterpret_cast<uintptr_t>(p) % (bytes) != 0
#define __global__
#define __device__
#define __launch_bounds__(...)

namespace ftbench::emulated {
namespace {

struct alignas(16) uint4 {
  uint32_t x, y, z, w;
};
struct Index {
  unsigned x;
};
Index threadIdx, blockIdx;
bool misaligned = false;  // whether a thread moved several bytes at once from where a GPU cannot

enum cudaError_t { cudaSuccess, cudaErrorInvalidValue };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize };
struct cudaStream_t {};

// What the threads of a block share is garbage for each block: nothing that another left can be taken
// for its own.
constexpr int kGarbage = 0xff;
std::unique_ptr<uint4[]> dynamic_shared;
std::vector<std::pair<void*, size_t>> all_static_shared;

template <class Type>
Type* known_static_shared() {
  static Type shared;
  all_static_shared.emplace_back(&shared, sizeof shared);
  return &shared;
}
// A kernel has one of a type.
template <class Type>
Type& static_shared() {
  static Type* const shared = known_static_shared<Type>();
  return *shared;
}

// What a kernel has asked to share, and may without asking.
constexpr size_t kUnasked = 49152;
const void* asking = nullptr;
size_t asked = kUnasked;

template <class Kernel>
cudaError_t cudaFuncSetAttribute(Kernel* kernel, cudaFuncAttribute, int bytes) {
  asking = reinterpret_cast<const void*>(kernel);
  asked = bytes;
  return cudaSuccess;
}

// Somewhere that the processor can be sent to. The first time costs a system call, later ones none.
struct Context {
  ucontext_t start{};
  bool started = true;
  jmp_buf state{};
  const void* stack = nullptr;
  size_t stack_bytes = 0;
  void* sanitizer = nullptr;
};
Context host;

// Returns when somebody goes back to `from`. AddressSanitizer is told, and tells whose stack it was.
void go(Context& from, Context& to) {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(&from.sanitizer, to.stack, to.stack_bytes);
#endif
  if (_setjmp(from.state) == 0) {
    if (to.started) _longjmp(to.state, 1);
    to.started = true;
    setcontext(&to.start);
  }
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(from.sanitizer, &to.stack, &to.stack_bytes);
#endif
}

// A block's threads that have not begun, and what each of them does.
struct Block {
  void (*run_thread)(const void* kernel);
  const void* kernel;
  unsigned threads, begun;
};
Block block;

// Runs one thread of a block after another on its stack. Where a thread waits, it waits with it, and
// another worker goes on with the threads that have not begun: where none waits, one does them all.
struct Worker {
  static constexpr size_t kStackBytes = 65536;
  Context context;
  std::unique_ptr<char[]> stack{new char[kStackBytes]};
  Index thread{};
  bool waits = false;

  Worker() {
    context.started = false;
    context.stack = stack.get();
    context.stack_bytes = kStackBytes;
    getcontext(&context.start);
    context.start.uc_stack.ss_sp = stack.get();
    context.start.uc_stack.ss_size = kStackBytes;
    makecontext(&context.start, work, 0);
  }

  void resume() {
    current = this;
    threadIdx = thread;
    go(host, context);
  }
  void give_way() { go(context, host); }

  // Never returns: a worker with nothing to do is left where it is until there is more.
  static void work() {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(nullptr, &host.stack, &host.stack_bytes);
#endif
    for (Worker& self = *current;; self.give_way()) {
      while (block.begun < block.threads) {
        self.thread.x = threadIdx.x = block.begun++;
        block.run_thread(block.kernel);
      }
    }
  }

  static Worker* current;
};
Worker* Worker::current = nullptr;

// Kept from launch to launch: new pages for each would take longer than the kernel.
std::vector<std::unique_ptr<Worker>> workers;

void __syncthreads() {
  Worker& here = *Worker::current;
  here.waits = true;
  here.give_way();
  here.waits = false;
}

void run_block() {
  size_t used = 0;
  for (block.begun = 0; block.begun < block.threads; ++used) {
    if (used == workers.size()) workers.push_back(std::make_unique<Worker>());
    workers[used]->resume();
  }
  // Each goes on as far as the next place where all wait, or to its end, until none waits.
  for (bool waiting = true; waiting;) {
    waiting = false;
    for (size_t i = 0; i < used; ++i) {
      if (!workers[i]->waits) continue;
      workers[i]->resume();
      waiting = waiting || workers[i]->waits;
    }
  }
}

// How many of a launch's blocks run at either end; 0 for all. Billions of threads take minutes.
int64_t blocks_at_ends = 0;

template <class... Parameters, class... Arguments>
cudaError_t launch(void (*kernel)(Parameters...), int64_t grid, int threads, size_t bytes,
                   cudaStream_t, const Arguments&... arguments) {
  const bool asks = asking == reinterpret_cast<const void*>(kernel);
  const bool fits = grid > 0 && grid < int64_t{1} << 31 && threads <= 1024;
  if (!fits || bytes > (asks ? asked : kUnasked)) return cudaErrorInvalidValue;
  const auto run = [&] { kernel(arguments...); };
  block.run_thread = [](const void* each) { (*static_cast<decltype(run)*>(each))(); };
  block.kernel = &run;
  block.threads = threads;
  for (int64_t i = 0; i < grid; ++i) {
    if (blocks_at_ends && i == blocks_at_ends) i = std::max(i, grid - blocks_at_ends);
    dynamic_shared.reset(new uint4[(bytes + sizeof(uint4) - 1) / sizeof(uint4)]);
    memset(dynamic_shared.get(), kGarbage, bytes);
    for (const auto& [shared, size] : all_static_shared) memset(shared, kGarbage, size);
    blockIdx.x = static_cast<unsigned>(i);
    run_block();
  }
  return cudaSuccess;
}

}  // namespace
}  // namespace ftbench::emulated
