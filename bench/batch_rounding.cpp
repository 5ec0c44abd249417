// How far one user's logits are, beside others, from those of a run alone; and why.
//
//     batch_rounding [-m model.gguf] [--users 8] [--prompt 96] [--piece 16] [--tokens 24]
//
// The same tokens are decoded for the first user each time. Printed is the largest relative RMS of
// a step's logits, to those of a run alone with the prompt in one step and then one token a step:
//
//   beside       a token of each user in a step, the prompts each in one step as before
//   in pieces    alone, but the prompt in pieces, as it rides along with others' steps
//
// and whether steps of the same shape are the same bit for bit, whatever the others say. Without
// -m, synthetic models of each type.
#include <cstdio>
#include <filesystem>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>
#include <unistd.h>

#include "base/clock.h"
#include "compute/test_logits.h"
#include "generate/engine.h"
#include "model/model_file.h"
#include "model/synth.h"
#include "ring/ring.h"

namespace prima {
namespace {

struct Options {
  std::string model;
  std::uint32_t users = 8;
  std::uint32_t prompt = 96;
  std::uint32_t piece = 16;
  std::uint32_t tokens = 24;
  std::uint32_t layers = 8;
  int threads = 1;
  bool repack = true;
};

using Logits = std::vector<std::vector<float>>;  // of the first user, by step

std::int32_t token_of(std::uint32_t user, std::uint32_t position, std::uint32_t n_vocab) {
  return static_cast<std::int32_t>(260 + (7919 * user + 104729 * position) % (n_vocab - 260));
}

struct Run {
  std::uint32_t n_users = 1;
  std::uint32_t others = 0;  // what they say; the first user always says the same
  std::uint32_t piece = 512;
};

Result<Logits> decode(const model::ModelFile& model, const Options& options, const Run& run) {
  const SystemClock clock;
  constexpr std::uint32_t kCells = 2048;
  const std::uint32_t n_vocab = model.hyperparameters().n_vocab;
  ring::RingOptions ring_options;
  ring_options.executor.n_ctx = kCells;
  ring_options.executor.n_threads = options.threads;
  ring_options.executor.repack = options.repack;
  PRIMA_ASSIGN_OR_RETURN(const auto ring, ring::form_ring(model, ring_options));
  generate::Engine engine(*ring, {.n_ctx = kCells}, clock);

  std::vector<generate::Sequence> users;
  const auto token = [&](std::uint32_t user, std::size_t position) {
    return token_of(user == 0 ? 0 : user + run.others, static_cast<std::uint32_t>(position),
                    n_vocab);
  };
  for (std::uint32_t user = 0; user < run.n_users; ++user) {
    generate::Sequence& sequence = users.emplace_back(static_cast<std::int32_t>(user));
    std::vector<std::int32_t> prompt;
    for (std::uint32_t i = 0; i < options.prompt; ++i) prompt.push_back(token(user, i));
    for (std::span<const std::int32_t> rest = prompt; !rest.empty();) {
      const auto piece = rest.first(std::min<std::size_t>(rest.size(), run.piece));
      const generate::Part part{.sequence = &sequence, .tokens = piece, .n_outputs = 0};
      PRIMA_RETURN_IF_ERROR(engine.submit({&part, 1}));
      PRIMA_RETURN_IF_ERROR(engine.next());
      rest = rest.subspan(piece.size());
    }
  }
  Logits logits;
  for (std::uint32_t i = 0; i < options.tokens; ++i) {
    std::vector<std::int32_t> tokens;
    for (std::uint32_t user = 0; user < run.n_users; ++user) {
      tokens.push_back(token(user, users[user].size()));
    }
    std::vector<generate::Part> parts;
    for (std::uint32_t user = 0; user < run.n_users; ++user) {
      parts.push_back(
          {.sequence = &users[user], .tokens = std::span(tokens).subspan(user, 1), .n_outputs = 1});
    }
    PRIMA_RETURN_IF_ERROR(engine.submit(parts));
    PRIMA_ASSIGN_OR_RETURN(const auto finished, engine.next());
    logits.emplace_back(finished.logits.begin(), finished.logits.begin() + n_vocab);
  }
  return logits;
}

Status measure(const std::filesystem::path& path, const std::string& name, const Options& options) {
  PRIMA_ASSIGN_OR_RETURN(const auto model, model::ModelFile::open(path));
  PRIMA_ASSIGN_OR_RETURN(const Logits alone, decode(model, options, {}));
  PRIMA_ASSIGN_OR_RETURN(const Logits beside, decode(model, options, {.n_users = options.users}));
  PRIMA_ASSIGN_OR_RETURN(const Logits beside_others,
                         decode(model, options, {.n_users = options.users, .others = 1000}));
  PRIMA_ASSIGN_OR_RETURN(const Logits pieces, decode(model, options, {.piece = options.piece}));
  const auto most = [&](const Logits& logits) {
    double largest = 0.0;
    for (std::size_t i = 0; i < alone.size(); ++i) {
      largest = std::max(largest, compute::relative_rms(logits[i], alone[i]));
    }
    return largest;
  };
  std::printf("%-8s %10.1e %10.1e   %s\n", name.c_str(), most(beside), most(pieces),
              beside == beside_others ? "identical" : "DIFFER");
  std::fflush(stdout);
  return {};
}

Status run(const Options& options) {
  std::printf("%-8s %10s %10s   %s\n", "type", "beside", "in pieces", "steps of the same shape");
  if (!options.model.empty()) return measure(options.model, "model", options);
  for (const char* type : {"F32", "F16", "BF16", "Q8_0", "Q6_K", "Q4_K", "Q4_0", "IQ4_XS"}) {
    const auto path = std::filesystem::temp_directory_path() /
                      ("prima-rounding-" + std::to_string(::getpid()) + ".gguf");
    PRIMA_RETURN_IF_ERROR(model::synthesize(
        {.n_layer = options.layers, .n_embd = 512, .n_head = 8, .n_vocab = 1024, .mixture = type},
        path));
    const Status measured = measure(path, type, options);
    std::filesystem::remove(path);
    PRIMA_RETURN_IF_ERROR(measured);
  }
  return {};
}

}  // namespace
}  // namespace prima

int main(int argc, char** argv) {
  prima::Options options;
  CLI::App app("How far a user's logits beside others are from those alone");
  app.add_option("-m,--model", options.model);
  app.add_option("--users", options.users);
  app.add_option("--prompt", options.prompt);
  app.add_option("--tokens", options.tokens);
  app.add_option("--layers", options.layers);
  app.add_option("--piece", options.piece);
  app.add_flag("!--no-repack", options.repack, "Weights as they lie in the file");
  app.add_option("--threads", options.threads);
  CLI11_PARSE(app, argc, argv);
  if (const auto status = prima::run(options); !status) {
    std::fprintf(stderr, "%s\n", status.error().message().c_str());
    return 1;
  }
  return 0;
}
