# prima_library(NAME SOURCES ... [LINK ...])   one folder of src/, one static library
# prima_test(NAME SOURCES ... [LINK ...])      a GoogleTest program beside the code it tests
# prima_fuzzer(NAME SOURCES ... [LINK ...])    a libFuzzer target (preset `fuzz`)
#
# A library sees the folders before it in PRIMA_ROOMS and no others: check_includes.cmake fails the
# build on any other #include. Headers must compile alone (CMake's header sets check that).

set(PRIMA_ROOMS base model text weights compute transport profile plan ring generate server cli)

add_library(prima_options INTERFACE)
target_include_directories(prima_options INTERFACE ${CMAKE_SOURCE_DIR}/src)
target_compile_options(prima_options INTERFACE
    -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wno-sign-conversion -Wnon-virtual-dtor
    -Woverloaded-virtual -Wimplicit-fallthrough
    $<$<BOOL:${PRIMA_WERROR}>:-Werror>)
target_compile_definitions(prima_options INTERFACE PRIMA_VERSION="${PROJECT_VERSION}")
if(PRIMA_SANITIZE)
  target_compile_options(prima_options INTERFACE
      -fsanitize=${PRIMA_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=all)
  target_link_options(prima_options INTERFACE -fsanitize=${PRIMA_SANITIZE})
endif()
if(PRIMA_FUZZ)
  target_compile_options(prima_options INTERFACE -fsanitize=fuzzer-no-link)
endif()

function(prima_library name)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "" "SOURCES;HEADERS;LINK")
  set(target prima_${name})
  add_library(${target} STATIC ${arg_SOURCES})
  target_sources(${target} PUBLIC FILE_SET HEADERS BASE_DIRS ${CMAKE_SOURCE_DIR}/src
                                  FILES ${arg_HEADERS})
  set_target_properties(${target} PROPERTIES VERIFY_INTERFACE_HEADER_SETS ON
                                             UNITY_BUILD ${PRIMA_UNITY} UNITY_BUILD_BATCH_SIZE 8)
  file(GLOB prima_room_headers RELATIVE ${CMAKE_CURRENT_SOURCE_DIR} ${CMAKE_CURRENT_SOURCE_DIR}/*.h)
  list(REMOVE_ITEM prima_room_headers ${arg_HEADERS})
  list(FILTER prima_room_headers EXCLUDE REGEX "^(test|fake)_") # belong to the tests
  if(prima_room_headers) # An unlisted header would escape the check that it compiles alone.
    message(SEND_ERROR "src/${name}/CMakeLists.txt: HEADERS lacks ${prima_room_headers}")
  endif()
  target_link_libraries(${target} PUBLIC prima_options ${arg_LINK})

  file(GLOB prima_room_files ${CMAKE_CURRENT_SOURCE_DIR}/*.h ${CMAKE_CURRENT_SOURCE_DIR}/*.cpp)
  set(stamp ${CMAKE_CURRENT_BINARY_DIR}/includes_checked)
  add_custom_command(OUTPUT ${stamp}
      COMMAND ${CMAKE_COMMAND} -DROOM=${name} "-DROOMS=${PRIMA_ROOMS}"
              -DFOLDER=${CMAKE_CURRENT_SOURCE_DIR} -DSTAMP=${stamp}
              -P ${CMAKE_SOURCE_DIR}/cmake/check_includes.cmake
      DEPENDS ${prima_room_files} ${CMAKE_SOURCE_DIR}/cmake/check_includes.cmake
      COMMENT "Checking what src/${name} includes" VERBATIM)
  add_custom_target(${target}_includes DEPENDS ${stamp})
  add_dependencies(${target} ${target}_includes)
endfunction()

function(prima_test name)
  if(NOT PRIMA_TESTS)
    return()
  endif()
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "TIMEOUT" "SOURCES;LINK")
  add_executable(${name} ${arg_SOURCES})
  target_link_libraries(${name} PRIVATE ${arg_LINK} prima_options GTest::gtest GTest::gmock
                                        GTest::gtest_main)
  if(NOT arg_TIMEOUT)
    set(arg_TIMEOUT 300)
  endif()
  if(CMAKE_CROSSCOMPILING) # An emulator's pace.
    math(EXPR arg_TIMEOUT "${arg_TIMEOUT} * 6")
  endif()
  # Beside the code: of a unit; under tests/: of whole programs, which are too much for an emulator.
  set(label unit)
  if(CMAKE_CURRENT_SOURCE_DIR MATCHES "^${CMAKE_SOURCE_DIR}/tests/")
    set(label program)
  endif()
  add_test(NAME ${name} COMMAND ${name})
  set_tests_properties(${name} PROPERTIES TIMEOUT ${arg_TIMEOUT} LABELS ${label})
endfunction()

function(prima_fuzzer name)
  if(NOT PRIMA_FUZZ)
    return()
  endif()
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "" "SOURCES;LINK")
  add_executable(${name} ${arg_SOURCES})
  target_link_libraries(${name} PRIVATE ${arg_LINK} prima_options)
  target_link_options(${name} PRIVATE -fsanitize=fuzzer)
endfunction()
