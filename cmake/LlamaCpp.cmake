# ggml, llama.cpp's library and its `common` library, as imported static targets.
#
# They are built once per (source, compiler, processor, options) into a cache outside the build
# tree, at configure time, so that every preset and every clean checkout shares one build. A native
# build on Linux compiles them with the system's compiler, whatever compiles Prima itself: gcc and
# clang share libstdc++ there, so that clang and its sanitizers need no second build of four minutes.
#
#   PRIMA_LLAMA_CPP_DIR             source tree; by default what tools/setup.sh fetched
#   PRIMA_CACHE_DIR                 where downloads and built libraries are kept (~/.cache/prima)
#   PRIMA_LLAMA_C_COMPILER,
#   PRIMA_LLAMA_CXX_COMPILER        what compiles these libraries
#   PRIMA_GGML_OPENMP               ggml's threads from OpenMP (docs/threads.md says why)
#   PRIMA_GGML_CUDA                 build ggml's CUDA backend
#
# Defines: prima::ggml, prima::llama, prima::llama_common

set(PRIMA_LLAMA_CPP_VERSION v0.5.0)
if(NOT "$ENV{PRIMA_CACHE_DIR}" STREQUAL "")
  set(prima_default_cache $ENV{PRIMA_CACHE_DIR})
elseif(NOT "$ENV{XDG_CACHE_HOME}" STREQUAL "")
  set(prima_default_cache $ENV{XDG_CACHE_HOME}/prima)
else()
  set(prima_default_cache $ENV{HOME}/.cache/prima)
endif()
set(PRIMA_CACHE_DIR ${prima_default_cache} CACHE PATH "Downloads and built dependencies")
set(PRIMA_LLAMA_CPP_DIR ${PRIMA_CACHE_DIR}/llama.cpp-${PRIMA_LLAMA_CPP_VERSION} CACHE PATH
    "Source tree of llama.cpp")
if(APPLE) # Apple's compiler brings no OpenMP.
  option(PRIMA_GGML_OPENMP "ggml's threads come from OpenMP" OFF)
else()
  option(PRIMA_GGML_OPENMP "ggml's threads come from OpenMP" ON)
endif()
option(PRIMA_GGML_CUDA "Build ggml's CUDA backend" OFF)

if(NOT EXISTS ${PRIMA_LLAMA_CPP_DIR}/ggml/CMakeLists.txt)
  message(FATAL_ERROR
      "llama.cpp's source is not at ${PRIMA_LLAMA_CPP_DIR}. Run "
      "PRIMA_CACHE_DIR=${PRIMA_CACHE_DIR} tools/setup.sh, which fetches it, "
      "or give your own checkout with -DPRIMA_LLAMA_CPP_DIR=DIR.")
endif()

if(CMAKE_SYSTEM_NAME STREQUAL "Linux" AND NOT CMAKE_CROSSCOMPILING)
  find_program(PRIMA_LLAMA_C_COMPILER NAMES cc gcc REQUIRED)
  find_program(PRIMA_LLAMA_CXX_COMPILER NAMES c++ g++ REQUIRED)
else()
  set(PRIMA_LLAMA_C_COMPILER ${CMAKE_C_COMPILER} CACHE FILEPATH "Compiles ggml")
  set(PRIMA_LLAMA_CXX_COMPILER ${CMAKE_CXX_COMPILER} CACHE FILEPATH "Compiles ggml and llama.cpp")
endif()

# What the built libraries depend on, and so what their place in the cache is named by.
execute_process(COMMAND ${PRIMA_LLAMA_CXX_COMPILER} -dumpfullversion
                OUTPUT_VARIABLE prima_llama_compiler_version OUTPUT_STRIP_TRAILING_WHITESPACE
                ERROR_QUIET)
if(prima_llama_compiler_version)
  set(prima_llama_by_gcc TRUE)
else() # Only gcc knows that option.
  set(prima_llama_by_gcc FALSE)
  execute_process(COMMAND ${PRIMA_LLAMA_CXX_COMPILER} -dumpversion
                  OUTPUT_VARIABLE prima_llama_compiler_version OUTPUT_STRIP_TRAILING_WHITESPACE)
endif()
execute_process(COMMAND ${PRIMA_LLAMA_CXX_COMPILER} -march=native -Q --help=target
                OUTPUT_VARIABLE prima_native_target ERROR_QUIET)
if(EXISTS ${PRIMA_LLAMA_CPP_DIR}/.git)
  execute_process(COMMAND git -C ${PRIMA_LLAMA_CPP_DIR} rev-parse HEAD
                  OUTPUT_VARIABLE prima_llama_commit OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
endif()
set(prima_llama_options
    -DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=OFF -DCMAKE_POSITION_INDEPENDENT_CODE=ON
    -DGGML_OPENMP=${PRIMA_GGML_OPENMP} -DGGML_CUDA=${PRIMA_GGML_CUDA} -DGGML_RPC=ON
    -DGGML_CCACHE=OFF
    -DLLAMA_BUILD_COMMON=ON -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_TOOLS=OFF
    -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_SERVER=OFF -DLLAMA_BUILD_APP=OFF -DLLAMA_CURL=OFF
    -DLLAMA_OPENSSL=OFF)
set(prima_llama_included ${CMAKE_CURRENT_LIST_DIR}/llama_cpp_build.cmake)
file(SHA256 ${prima_llama_included} prima_llama_included_hash)
if(APPLE) # On by default there; nobody has linked Prima with them yet.
  list(APPEND prima_llama_options -DGGML_METAL=OFF -DGGML_BLAS=OFF -DGGML_ACCELERATE=OFF)
endif()
if(CMAKE_CROSSCOMPILING)
  list(APPEND prima_llama_options -DGGML_NATIVE=OFF)
  set(prima_llama_toolchain -DCMAKE_TOOLCHAIN_FILE=${CMAKE_TOOLCHAIN_FILE})
  set(prima_native_target "")
endif()
string(SHA256 prima_llama_key
       "${PRIMA_LLAMA_CPP_DIR};${prima_llama_commit};${PRIMA_LLAMA_CXX_COMPILER};${prima_llama_compiler_version};${CMAKE_SYSTEM_PROCESSOR};${prima_native_target};${prima_llama_options};${prima_llama_included_hash}")
string(SUBSTRING ${prima_llama_key} 0 16 prima_llama_key)
set(PRIMA_LLAMA_BUILD_DIR ${PRIMA_CACHE_DIR}/llama.cpp-build-${prima_llama_key})

if(NOT EXISTS ${PRIMA_LLAMA_BUILD_DIR}/complete)
  message(STATUS "Building ggml and llama.cpp (once, some four minutes on two cores) into "
                 "${PRIMA_LLAMA_BUILD_DIR}")
  file(MAKE_DIRECTORY ${PRIMA_CACHE_DIR})
  # Two configure runs at once would build over each other; the second waits for the first.
  file(LOCK ${PRIMA_CACHE_DIR}/llama.cpp-build-${prima_llama_key}.lock GUARD FILE TIMEOUT 3600)
endif()
if(NOT EXISTS ${PRIMA_LLAMA_BUILD_DIR}/complete)
  set(prima_launchers)
  if(PRIMA_CCACHE)
    set(prima_launchers -DCMAKE_C_COMPILER_LAUNCHER=${PRIMA_CCACHE}
                        -DCMAKE_CXX_COMPILER_LAUNCHER=${PRIMA_CCACHE}
                        -DCMAKE_CUDA_COMPILER_LAUNCHER=${PRIMA_CCACHE})
  endif()
  execute_process(
      # Fresh: a configuration that was broken off may name a toolchain file of a checkout now gone.
      COMMAND ${CMAKE_COMMAND} --fresh -S ${PRIMA_LLAMA_CPP_DIR} -B ${PRIMA_LLAMA_BUILD_DIR} -G Ninja
              -DCMAKE_C_COMPILER=${PRIMA_LLAMA_C_COMPILER}
              -DCMAKE_CXX_COMPILER=${PRIMA_LLAMA_CXX_COMPILER}
              -DCMAKE_PROJECT_llama.cpp_INCLUDE=${prima_llama_included}
              ${prima_llama_toolchain} ${prima_llama_options} ${prima_launchers} -Wno-dev
      OUTPUT_FILE ${PRIMA_LLAMA_BUILD_DIR}-configure.log
      ERROR_FILE ${PRIMA_LLAMA_BUILD_DIR}-configure.log
      RESULT_VARIABLE prima_result)
  if(NOT prima_result EQUAL 0)
    message(FATAL_ERROR "Configuring llama.cpp failed; see ${PRIMA_LLAMA_BUILD_DIR}-configure.log")
  endif()
  execute_process(
      COMMAND ${CMAKE_COMMAND} --build ${PRIMA_LLAMA_BUILD_DIR} --target ggml llama llama-common
      RESULT_VARIABLE prima_result)
  if(NOT prima_result EQUAL 0)
    message(FATAL_ERROR "Building llama.cpp failed; see the messages above. The build is in "
                        "${PRIMA_LLAMA_BUILD_DIR}.")
  endif()
  file(TOUCH ${PRIMA_LLAMA_BUILD_DIR}/complete)
endif()

function(prima_import_static target path)
  add_library(${target} STATIC IMPORTED GLOBAL)
  set_target_properties(${target} PROPERTIES
      IMPORTED_LOCATION ${PRIMA_LLAMA_BUILD_DIR}/${path}/${CMAKE_STATIC_LIBRARY_PREFIX}${ARGN}${CMAKE_STATIC_LIBRARY_SUFFIX})
endfunction()

prima_import_static(prima_ggml_base ggml/src ggml-base)
prima_import_static(prima_ggml_cpu ggml/src ggml-cpu)
prima_import_static(prima_ggml_rpc ggml/src/ggml-rpc ggml-rpc)
prima_import_static(prima_ggml_registry ggml/src ggml)
prima_import_static(prima_llama src llama)
prima_import_static(prima_llama_common common llama-common)
prima_import_static(prima_llama_common_base common llama-common-base)
prima_import_static(prima_httplib vendor/cpp-httplib cpp-httplib)

# Static libraries need their order said.
target_link_libraries(prima_ggml_cpu INTERFACE prima_ggml_base)
target_link_libraries(prima_ggml_rpc INTERFACE prima_ggml_base)
target_link_libraries(prima_ggml_registry INTERFACE prima_ggml_cpu prima_ggml_rpc prima_ggml_base)
target_link_libraries(prima_llama INTERFACE prima_ggml_registry)
target_link_libraries(prima_llama_common INTERFACE prima_llama_common_base prima_httplib prima_llama)

# What ggml itself needs comes after it on the linker's line.
target_link_libraries(prima_ggml_base INTERFACE Threads::Threads ${CMAKE_DL_LIBS} m)
if(PRIMA_GGML_OPENMP AND prima_llama_by_gcc)
  # The runtime of the compiler that built ggml: clang's -fopenmp would bring its own, and two in one
  # process fight over the cores. Static, so that threads_openmp.cpp can set it up before it starts.
  execute_process(COMMAND ${PRIMA_LLAMA_CXX_COMPILER} -print-file-name=libgomp.a
                  OUTPUT_VARIABLE prima_libgomp OUTPUT_STRIP_TRAILING_WHITESPACE)
  target_link_libraries(prima_ggml_base INTERFACE ${prima_libgomp})
elseif(PRIMA_GGML_OPENMP)
  find_package(OpenMP REQUIRED COMPONENTS CXX)
  target_link_libraries(prima_ggml_base INTERFACE OpenMP::OpenMP_CXX)
endif()

add_library(prima_ggml INTERFACE)
add_library(prima::ggml ALIAS prima_ggml)
target_include_directories(prima_ggml SYSTEM INTERFACE ${PRIMA_LLAMA_CPP_DIR}/ggml/include)
target_link_libraries(prima_ggml INTERFACE prima_ggml_registry)
if(PRIMA_GGML_CUDA)
  find_package(CUDAToolkit REQUIRED)
  prima_import_static(prima_ggml_cuda ggml/src/ggml-cuda ggml-cuda)
  target_link_libraries(prima_ggml_registry INTERFACE prima_ggml_cuda)
  target_link_libraries(prima_ggml_cuda INTERFACE prima_ggml_base CUDA::cudart_static CUDA::cublas
                                                  CUDA::cublasLt CUDA::cuda_driver)
endif()

add_library(prima_llama_interface INTERFACE)
add_library(prima::llama ALIAS prima_llama_interface)
target_include_directories(prima_llama_interface SYSTEM INTERFACE ${PRIMA_LLAMA_CPP_DIR}/include)
target_link_libraries(prima_llama_interface INTERFACE prima_llama prima::ggml)

# `common` carries cpp-httplib and nlohmann-json; everything in Prima uses these copies.
add_library(prima_llama_common_interface INTERFACE)
add_library(prima::llama_common ALIAS prima_llama_common_interface)
target_include_directories(prima_llama_common_interface SYSTEM INTERFACE
    ${PRIMA_LLAMA_CPP_DIR}/common ${PRIMA_LLAMA_CPP_DIR}/vendor)
target_link_libraries(prima_llama_common_interface INTERFACE
    prima_llama_common prima::llama)

add_library(prima_json INTERFACE)
add_library(prima::json ALIAS prima_json)
target_include_directories(prima_json SYSTEM INTERFACE ${PRIMA_LLAMA_CPP_DIR}/vendor)
