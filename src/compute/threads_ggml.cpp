// ggml's own thread pool, which can be paused.
#include "compute/threads.h"

namespace prima::compute {
namespace {

struct FreePool {
  void operator()(ggml_threadpool* pool) const { ggml_threadpool_free(pool); }
};

class PausableThreads final : public ComputeThreads {
 public:
  explicit PausableThreads(int n_threads) {
    ggml_threadpool_params params = ggml_threadpool_params_default(n_threads);
    params.paused = true;
    pool_.reset(ggml_threadpool_new(&params));
  }

  ggml_threadpool* pool() const { return pool_.get(); }
  void rest() override { ggml_threadpool_pause(pool_.get()); }

 private:
  std::unique_ptr<ggml_threadpool, FreePool> pool_;
};

}  // namespace

std::unique_ptr<ComputeThreads> make_compute_threads(ggml_backend_t cpu_backend, int n_threads) {
  auto threads = std::make_unique<PausableThreads>(n_threads);
  ggml_backend_cpu_set_n_threads(cpu_backend, n_threads);
  ggml_backend_cpu_set_threadpool(cpu_backend, threads->pool());
  return threads;
}

}  // namespace prima::compute
