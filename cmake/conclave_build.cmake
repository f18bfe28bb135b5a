# Compiler settings, and the one function by which a folder becomes a library.

set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bin)
if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE Release CACHE STRING "" FORCE)
endif()
find_program(CONCLAVE_CCACHE ccache)
if(CONCLAVE_CCACHE)
  set(CMAKE_CXX_COMPILER_LAUNCHER ${CONCLAVE_CCACHE})
endif()

add_compile_options($<$<COMPILE_LANGUAGE:CXX>:-Wall> $<$<COMPILE_LANGUAGE:CXX>:-Wextra>
                    $<$<COMPILE_LANGUAGE:CXX>:-Wno-missing-field-initializers>)
if(CMAKE_CXX_COMPILER_ID STREQUAL GNU AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13)
  # GCC 12 takes the value that is moved out of an absl::StatusOr for uninitialised.
  add_compile_options($<$<COMPILE_LANGUAGE:CXX>:-Wno-maybe-uninitialized>)
endif()
set(CMAKE_CXX_FLAGS_RELEASE "-O2 -DNDEBUG")
include_directories(${CMAKE_SOURCE_DIR} ${CMAKE_BINARY_DIR})

if(CONCLAVE_SANITIZE)
  # Instrumented sources compile in 10 to 25 % less time at -O1 than at -O2.
  add_compile_options(-fsanitize=${CONCLAVE_SANITIZE} -O1 -fno-omit-frame-pointer -g1 -fno-sanitize-recover=undefined)
  add_link_options(-fsanitize=${CONCLAVE_SANITIZE})
  # Function multi-versioning resolves before a sanitizer's runtime is up.
  add_compile_definitions(CONCLAVE_NO_SIMD_CLONES)
endif()

# conclave_library(NAME [GLOBS...] DEPS target...): all .cc files of this folder and of the named sub-folders.
function(conclave_library name)
  cmake_parse_arguments(ARG "" "" "FOLDERS;EXCLUDE;DEPS" ${ARGN})
  set(globs ${CMAKE_CURRENT_SOURCE_DIR}/*.cc)
  foreach(folder ${ARG_FOLDERS})
    list(APPEND globs ${CMAKE_CURRENT_SOURCE_DIR}/${folder}/*.cc)
  endforeach()
  file(GLOB sources CONFIGURE_DEPENDS ${globs})
  foreach(pattern ${ARG_EXCLUDE})
    list(FILTER sources EXCLUDE REGEX ${pattern})
  endforeach()
  if(sources)
    add_library(conclave_${name} STATIC ${sources})
    target_link_libraries(conclave_${name} PUBLIC ${ARG_DEPS})
    # Most of a file's compile time is the headers it shares with its neighbours; eight files at once read them once.
    set_target_properties(conclave_${name} PROPERTIES UNITY_BUILD ${CONCLAVE_UNITY} UNITY_BUILD_BATCH_SIZE 8)
  else()
    add_library(conclave_${name} INTERFACE)
    target_link_libraries(conclave_${name} INTERFACE ${ARG_DEPS})
  endif()
endfunction()
