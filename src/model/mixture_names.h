// The names that people use for types and for mixtures of them.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include <ggml.h>

namespace prima::model {

// "Q4_K".
std::string type_name(ggml_type type);

// llama.cpp's number for a mixture of types (general.file_type) and its name, "Q4_K_M"; empty and
// nullopt for those it does not have.
std::string_view mixture_name(std::uint32_t file_type);
std::optional<std::uint32_t> file_type_of_mixture(std::string_view name);

}  // namespace prima::model
