# Read by llama.cpp's own build after its project(): `common` and cpp-httplib, which no token waits for,
# compile in half the time as a unity build with few optimizations.

cmake_language(DEFER CALL set_target_properties llama-common PROPERTIES
               UNITY_BUILD ON UNITY_BUILD_BATCH_SIZE 8)
# Specializes templates that the files before it have used.
cmake_language(DEFER CALL set_source_files_properties common/json.cpp TARGET_DIRECTORY llama-common
               PROPERTIES SKIP_UNITY_BUILD_INCLUSION ON)
cmake_language(DEFER CALL target_compile_options llama-common PRIVATE -O1)
cmake_language(DEFER CALL target_compile_options cpp-httplib PRIVATE -O1)
