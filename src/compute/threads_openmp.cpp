// GNU OpenMP's threads spin at a barrier, by default for some milliseconds, before they sleep. Two
// things make them good company:
//  - Between graphs they cannot be told to sleep at once, but OpenMP 5.0 can give up its thread
//  pool;
//    the next graph makes it anew.
//  - Within a graph, a thread that spins while another program has its partner's processor burns
//  time
//    that both could use. A short spin covers the waits between threads that all run; after it,
//    sleep.
#include <cstdlib>

#include "compute/threads.h"

extern "C" int omp_pause_resource_all(int kind);  // <omp.h>, which clang lacks beside gcc's runtime

namespace prima::compute {
namespace {

constexpr int kPauseSoft = 1;  // omp_pause_soft

// Times round the loop, about 15 ns each. docs/threads.md has the measurements.
constexpr const char* kSpinCount = "2000";

// libgomp reads its environment in a constructor of ordinary priority; it is linked statically, so
// this comes before. What the user has set stands.
[[gnu::constructor(101)]] void shorten_spinning() {
  if (std::getenv("OMP_WAIT_POLICY") == nullptr) setenv("GOMP_SPINCOUNT", kSpinCount, 0);
}

class OpenMpThreads final : public ComputeThreads {
 public:
  void rest() override { omp_pause_resource_all(kPauseSoft); }
};

}  // namespace

std::unique_ptr<ComputeThreads> make_compute_threads(ggml_backend_t cpu_backend, int n_threads) {
  ggml_backend_cpu_set_n_threads(cpu_backend, n_threads);
  return std::make_unique<OpenMpThreads>();
}

}  // namespace prima::compute
