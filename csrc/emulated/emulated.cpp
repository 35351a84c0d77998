// The GPU's kernels and their launches, compiled for the CPU: for tests.
#include <ATen/core/Tensor.h>

#include "../mix/call.h"
#include "../penalty/call.h"

#if defined(__GLIBC__)

#include <ucontext.h>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#define FTBENCH_EMULATED
#include "../mix/cuda.cu"
#include "../penalty/cuda.cu"

namespace ftbench {
namespace emulated {
namespace {

constexpr size_t kStackBytes = 65536;
constexpr int kGarbage = 0xff;

// Somewhere that the processor can be sent to. AddressSanitizer wants to be told.
struct Context {
  ucontext_t state{};
  const void* stack = nullptr;
  size_t stack_bytes = 0;
  void* sanitizer = nullptr;
};

void arrive(Context& here, const void** stack, size_t* bytes) {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(here.sanitizer, stack, bytes);
#endif
}
void leave(Context& here, Context& there, bool for_good) {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(for_good ? nullptr : &here.sanitizer, there.stack,
                                 there.stack_bytes);
#endif
}

// The threads of a block.
class Block {
 public:
  Block(int threads, const std::function<void()>& kernel)
      : kernel_(kernel), threads_(threads), done_(threads) {
    // Kept from launch to launch: new pages for each would take longer than the kernel.
    if (stacks.size() < threads * kStackBytes) stacks.resize(threads * kStackBytes);
  }

  void run() {
    for (size_t i = 0; i < threads_.size(); ++i) {
      Context& thread = threads_[i];
      done_[i] = false;
      getcontext(&thread.state);
      thread.stack = stacks.data() + i * kStackBytes;
      thread.stack_bytes = kStackBytes;
      thread.state.uc_stack.ss_sp = const_cast<void*>(thread.stack);
      thread.state.uc_stack.ss_size = kStackBytes;
      thread.state.uc_link = &host_.state;
      makecontext(&thread.state, begin, 0);
    }
    active = this;
    // Each goes on as far as the next place where all wait, or to its end.
    for (bool waiting = true; waiting;) {
      waiting = false;
      for (current_ = 0; current_ < threads_.size(); ++current_) {
        if (done_[current_]) continue;
        threadIdx.x = static_cast<unsigned>(current_);
        leave(host_, threads_[current_], false);
        swapcontext(&host_.state, &threads_[current_].state);
        arrive(host_, nullptr, nullptr);
        waiting = waiting || !done_[current_];
      }
    }
    active = nullptr;
  }

  void wait() {
    Context& here = threads_[current_];
    leave(here, host_, false);
    swapcontext(&here.state, &host_.state);
    arrive(here, nullptr, nullptr);
  }

  static thread_local Block* active;
  static thread_local std::vector<char> stacks;

 private:
  static void begin() {
    Block& block = *active;
    arrive(block.threads_[block.current_], &block.host_.stack, &block.host_.stack_bytes);
    block.kernel_();
    block.done_[block.current_] = true;
    leave(block.threads_[block.current_], block.host_, true);
  }

  const std::function<void()>& kernel_;
  Context host_;
  std::vector<Context> threads_;
  std::vector<char> done_;
  size_t current_ = 0;
};

thread_local Block* Block::active = nullptr;
thread_local std::vector<char> Block::stacks;
thread_local std::unique_ptr<uint4[]> shared_bytes;
thread_local std::vector<std::pair<void*, size_t>> forgotten;

}  // namespace

void __syncthreads() { Block::active->wait(); }
void* dynamic_shared() { return shared_bytes.get(); }
void forget_between_blocks(void* shared, size_t bytes) { forgotten.emplace_back(shared, bytes); }

void run_blocks(int64_t grid, int threads, size_t bytes, const std::function<void()>& kernel) {
  Block block(threads, kernel);
  for (int64_t i = 0; i < grid; ++i) {
    shared_bytes.reset(new uint4[(bytes + sizeof(uint4) - 1) / sizeof(uint4)]);
    memset(shared_bytes.get(), kGarbage, bytes);
    for (const auto& [shared, size] : forgotten) memset(shared, kGarbage, size);
    blockIdx.x = static_cast<unsigned>(i);
    block.run();
  }
}

}  // namespace emulated

void mix_as_gpu(MixCall& call) {
  call.fit_gpu();
  const auto error =
      emulated::launch_mix(call.mix, normalization_of(call.mix), emulated::cudaStream_t{});
  TORCH_CHECK(error == emulated::cudaSuccess, "a GPU would have refused the launch");
}

double penalty_as_gpu(const PenaltyCall& call, double scale) {
  std::vector<double> partials(call.blocks() * kGroupsPerBlock);
  double value = 0.0;
  const auto error = emulated::launch_penalty(
      call.terms.data(), call.starts.data(), static_cast<int64_t>(call.terms.size()), scale,
      partials.data(), &value, true, emulated::cudaStream_t{});
  TORCH_CHECK(error == emulated::cudaSuccess, "a GPU would have refused the launch");
  return value;
}

at::Tensor label_weights_as_gpu(const LabelCall& call) {
  const auto error = emulated::launch_label_weight(
      call.weight.const_data_ptr<float>(), call.box.const_data_ptr<int32_t>(), call.out.numel(),
      call.height, call.width, call.out.mutable_data_ptr<float>(), emulated::cudaStream_t{});
  TORCH_CHECK(error == emulated::cudaSuccess, "a GPU would have refused the launch");
  return call.out;
}

}  // namespace ftbench

#else

namespace ftbench {

constexpr char kMissing[] = "the GPU's kernels run on the CPU where glibc is";

void mix_as_gpu(MixCall&) { TORCH_CHECK_NOT_IMPLEMENTED(false, kMissing); }
double penalty_as_gpu(const PenaltyCall&, double) { TORCH_CHECK_NOT_IMPLEMENTED(false, kMissing); }
at::Tensor label_weights_as_gpu(const LabelCall&) { TORCH_CHECK_NOT_IMPLEMENTED(false, kMissing); }

}  // namespace ftbench

#endif
