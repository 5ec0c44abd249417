// OpenMP's threads spin for some milliseconds after a graph and then sleep. They cannot be told to
// sleep at once, but OpenMP 5.0 can give up its thread pool; the next graph makes it anew.
#include "compute/threads.h"

extern "C" int omp_pause_resource_all(int kind);  // <omp.h>, which clang lacks beside gcc's runtime

namespace prima::compute {
namespace {

constexpr int kPauseSoft = 1;  // omp_pause_soft

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
