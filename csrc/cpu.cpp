#include "cpu.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <stdexcept>
#include <thread>

#if defined(__linux__)
#include <sched.h>
#endif

namespace ftbench {

extern const Kernels kernels_baseline;
#if defined(__x86_64__)
extern const Kernels kernels_avx2;
extern const Kernels kernels_avx512;
extern const Kernels kernels_avx512_bf16;
#endif

namespace {

// Lowest first.
std::vector<const Kernels*> supported() {
  std::vector<const Kernels*> found{&kernels_baseline};
#if defined(__x86_64__)
  const auto has_all = [](auto... present) { return (present && ...); };
  if (!has_all(__builtin_cpu_supports("avx2"), __builtin_cpu_supports("fma"),
               __builtin_cpu_supports("f16c"))) {
    return found;
  }
  found.push_back(&kernels_avx2);
  if (!has_all(__builtin_cpu_supports("avx512f"), __builtin_cpu_supports("avx512bw"),
               __builtin_cpu_supports("avx512dq"), __builtin_cpu_supports("avx512vl"))) {
    return found;
  }
  found.push_back(&kernels_avx512);
  if (__builtin_cpu_supports("avx512bf16")) found.push_back(&kernels_avx512_bf16);
#endif
  return found;
}

// Opened by C: with a second C++ runtime in the process (some builds of torch carry their own), a
// stream of the standard library reads a number through the other one's tables and crashes.
struct Closer {
  void operator()(std::FILE* file) const { std::fclose(file); }
};
using File = std::unique_ptr<std::FILE, Closer>;

File open_to_read(const std::string& path) { return File(std::fopen(path.c_str(), "r")); }

// What Linux says of the first core's caches. sysconf() would count, on some processors, the caches
// of cores that do not share theirs.
int64_t largest_cache() {
  int64_t largest = 0;
  for (int i = 0; i < 8; ++i) {
    const std::string path = "/sys/devices/system/cpu/cpu0/cache/index" + std::to_string(i) + "/size";
    const File file = open_to_read(path);
    long long size = 0;
    char unit = 0;
    if (!file || std::fscanf(file.get(), "%lld %c", &size, &unit) < 1) continue;
    largest = std::max<int64_t>(largest, size * (unit == 'K' ? 1 << 10 : unit == 'M' ? 1 << 20 : 1));
  }
  return largest;
}

// Of the last cache, for each core. An EPYC has 4 MiB for each, a Xeon 2 and 2 of the cache before
// it. With two cores of an EPYC whose neighbours were busy, a batch and its reader took as long
// through the cache as past it where the batch had 14 (float32) to 27 MB (bytes to float32).
constexpr int64_t kCacheBytesOfCore = 5 << 20;

std::atomic<int64_t>& cache_bytes() {
  static std::atomic<int64_t> bytes{cache_share(largest_cache(), usable_cores())};
  return bytes;
}

const Kernels* find(const std::string& name) {
  std::string known;
  for (const Kernels* each : supported()) {
    if (each->name == name) return each;
    known += (known.empty() ? "" : ", ") + std::string(each->name);
  }
  throw std::invalid_argument("instruction set '" + name + "' is not one of this processor's: " +
                              known);
}

const Kernels* first_choice() {
  const char* named = std::getenv("FTBENCH_ISA");
  return named && *named ? find(named) : supported().back();
}

std::atomic<const Kernels*>& current() {
  static std::atomic<const Kernels*> chosen{first_choice()};
  return chosen;
}

}  // namespace

bool prefetch_pays() {
#if defined(__x86_64__)
  static const bool intel = __builtin_cpu_is("intel");
  return intel;
#else
  return false;
#endif
}

int64_t quota_cores(const std::string& path) {
  const File file = open_to_read(path);
  long long microseconds = 0, period = 0;
  // "max" is no number: there is no quota.
  if (!file || std::fscanf(file.get(), "%lld %lld", &microseconds, &period) != 2) return 0;
  if (microseconds <= 0 || period <= 0) return 0;
  return static_cast<int64_t>(std::ceil(static_cast<double>(microseconds) / period));
}

int64_t usable_cores() {
  int64_t cores = std::thread::hardware_concurrency();
#if defined(__linux__)
  cpu_set_t allowed;
  if (sched_getaffinity(0, sizeof allowed, &allowed) == 0) cores = CPU_COUNT(&allowed);
#endif
  const int64_t quota = quota_cores("/sys/fs/cgroup/cpu.max");
  return quota > 0 ? std::min(cores, quota) : cores;
}

int64_t cache_share(int64_t reported_bytes, int64_t cores) {
  const int64_t share = std::max<int64_t>(cores, 1) * kCacheBytesOfCore;
  return reported_bytes > 0 ? std::min(reported_bytes, share) : share;
}

int64_t last_cache_bytes() { return cache_bytes().load(std::memory_order_relaxed); }

void set_last_cache_bytes(int64_t bytes) { cache_bytes().store(bytes); }

const Kernels& kernels() { return *current().load(std::memory_order_relaxed); }

void use_instruction_set(const std::string& name) { current().store(find(name)); }

std::vector<std::string> instruction_sets() {
  std::vector<std::string> names;
  for (const Kernels* each : supported()) names.emplace_back(each->name);
  return names;
}

}  // namespace ftbench
