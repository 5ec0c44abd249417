// Threads that compute, and how they rest.
//
// While a graph is computed its threads spin at barriers, which is what makes decoding fast;
// between graphs they go on spinning for a while in case another follows. A device that waits for
// its turn in a ring must not: rest_threads() puts them to sleep at once. docs/threads.md has the
// measurements.
//
// One file per source of ggml's threads, chosen by the build: threads_openmp.cpp, threads_ggml.cpp.
#pragma once

#include <memory>

#include <ggml-backend.h>
#include <ggml-cpp.h>
#include <ggml-cpu.h>

namespace prima::compute {

// One per physical core that this process may use: a second thread on a core waits for the same
// memory and slows the first's barriers.
int default_thread_count();

// Thread-compatible; belongs to the thread that computes.
class ComputeThreads {
 public:
  virtual ~ComputeThreads() = default;

  // Until the next graph. Costs well under a millisecond then.
  virtual void rest() = 0;
};

// Makes `cpu_backend` compute with `n_threads` threads.
std::unique_ptr<ComputeThreads> make_compute_threads(ggml_backend_t cpu_backend, int n_threads);

}  // namespace prima::compute
