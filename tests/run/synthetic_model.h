// Small models for whole-program tests, written by the program itself.
#pragma once

#include <string>

#include "run/program.h"
#include <gtest/gtest.h>

namespace prima::test {

// 2 layers, 512 tokens of vocabulary, trained for `context` tokens; no chat template.
inline std::string make_model(const TemporaryFolder& folder, const std::string& name,
                              int context = 256) {
  const std::string path = folder.file(name);
  const Outcome made =
      run({"model", "synth", "--layers", "2", "--embd", "64", "--heads", "4", "--vocab", "512",
           "--context", std::to_string(context), "--type", "F16", "-o", path});
  EXPECT_EQ(made.status, 0) << made.err;
  return path;
}

}  // namespace prima::test
