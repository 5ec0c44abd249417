#include "cli/key_command.h"

#include <cstdio>
#include <filesystem>
#include <memory>
#include <string>

#include <CLI/CLI.hpp>

#include "cli/exit_code.h"
#include "transport/cluster_key.h"

namespace prima::cli {

namespace {

constexpr const char* kKeyFooter =
    "All traffic between devices is encrypted and authenticated with this key; a device without "
    "it\n"
    "can neither read nor join. It is made when it is first needed. Processes of one user on one\n"
    "computer share it; type it on the other devices:\n"
    "\n"
    "  prima key                           show it\n"
    "  prima key --set ABCD-EFGH-JKMN-PQRS  on another device\n"
    "  prima key --new                     make another one, if this has become known\n";

struct KeyOptions {
  std::string typed;
  bool make_new = false;
  std::filesystem::path key_file;
};

Result<int> run(const KeyOptions& options) {
  std::filesystem::path path = options.key_file;
  if (path.empty()) {
    PRIMA_ASSIGN_OR_RETURN(path, transport::default_key_path());
  }
  if (!options.typed.empty() || options.make_new) {
    std::string code = transport::make_code();
    if (!options.typed.empty()) {
      PRIMA_ASSIGN_OR_RETURN(code, transport::parse_code(options.typed));
    }
    PRIMA_ASSIGN_OR_RETURN(const auto key, transport::stretch(std::move(code)));
    PRIMA_RETURN_IF_ERROR(transport::store_key(path, key));
  }
  PRIMA_ASSIGN_OR_RETURN(const auto key, transport::load_or_create_key(path));
  std::printf("%s\n", transport::format_code(key.code).c_str());
  return kSuccess;
}

}  // namespace

void add_key_command(CLI::App& app, int& exit_code) {
  auto options = std::make_shared<KeyOptions>();
  CLI::App* command = app.add_subcommand("key", "Show or set the key that the devices share");
  command->footer(kKeyFooter);
  auto* const typed = command->add_option("--set", options->typed, "Use the key of another device");
  command->add_flag("--new", options->make_new, "Make a new key")->excludes(typed);
  command->add_option("--key-file", options->key_file, "Cluster key, if not the user's own");
  command->callback([options, &exit_code] {
    const auto code = run(*options);
    exit_code = code ? *code : report(code.error());
  });
}

}  // namespace prima::cli
