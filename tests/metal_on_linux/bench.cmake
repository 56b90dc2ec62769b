# The Metal backend on Linux: the fake Metal, and Objective-C on GNUstep and GCC's runtime, with or without automatic
# reference counting. Needs clang 19 as C, C++ and Objective-C++ compiler; build.sh calls it.
option(MOEFLUX_BENCH_ARC "Compile csrc/metal with automatic reference counting, as on macOS" ON)
set(MOEFLUX_BENCH_PYTHON "${Python_EXECUTABLE}" CACHE FILEPATH "Python that translates shaders at run time")
set(MOEFLUX_BENCH_CACHE "${CMAKE_CURRENT_BINARY_DIR}/kernels" CACHE PATH "Folder of the compiled shaders")
set(MOEFLUX_BENCH_COVERAGE OFF CACHE BOOL "Count which lines of csrc/metal run")

execute_process(COMMAND gcc -print-file-name=include OUTPUT_VARIABLE gcc_include OUTPUT_STRIP_TRAILING_WHITESPACE)
get_filename_component(gcc_folder ${gcc_include} DIRECTORY)

set(bench_folder ${CMAKE_CURRENT_SOURCE_DIR}/tests/metal_on_linux)
set(objc_definitions GNUSTEP GNUSTEP_BASE_LIBRARY=1 GNU_RUNTIME=1 _NATIVE_OBJC_EXCEPTIONS)
set(objc_options -fblocks -fexceptions -fobjc-exceptions -fconstant-string-class=NSConstantString)
set(objc_includes ${bench_folder}/fake)
set(objc_system_includes /usr/include/GNUstep ${gcc_include})

target_compile_definitions(moeflux_metal PRIVATE ${objc_definitions})
target_include_directories(moeflux_metal PRIVATE ${objc_includes})
if(MOEFLUX_BENCH_ARC)
  # GCC's header reads a member of an object, which automatic reference counting forbids.
  file(READ ${gcc_include}/objc/runtime.h runtime_header)
  string(REPLACE "return object->class_pointer;" "return *(Class *)(__bridge void *)object;" runtime_header
                 "${runtime_header}")
  file(WRITE ${CMAKE_CURRENT_BINARY_DIR}/arc_headers/objc/runtime.h "${runtime_header}")
  target_include_directories(moeflux_metal SYSTEM BEFORE PRIVATE ${CMAKE_CURRENT_BINARY_DIR}/arc_headers)
  target_include_directories(moeflux_metal SYSTEM PRIVATE ${objc_system_includes} ${gcc_include}/objc)
  set(layer_options ${objc_options} -fobjc-runtime=gnustep-1.9 -fobjc-arc)
else()
  target_include_directories(moeflux_metal SYSTEM PRIVATE ${objc_system_includes})
  set(layer_options ${objc_options} -fobjc-runtime=gcc)
endif()
if(MOEFLUX_BENCH_COVERAGE)
  list(APPEND layer_options -fprofile-instr-generate -fcoverage-mapping -O0 -g)
  target_link_options(moeflux_core PUBLIC -fprofile-instr-generate)
endif()
target_compile_options(moeflux_metal PRIVATE "$<$<COMPILE_LANGUAGE:OBJCXX>:${layer_options}>")

file(GLOB fake_sources CONFIGURE_DEPENDS ${bench_folder}/fake/*.mm ${bench_folder}/fake/*.cpp)
if(MOEFLUX_BENCH_ARC)
  list(APPEND fake_sources ${bench_folder}/arc/runtime.mm)
endif()
add_library(fake_metal OBJECT ${fake_sources})
target_compile_definitions(
  fake_metal
  PRIVATE ${objc_definitions} FAKE_METAL_PYTHON="${MOEFLUX_BENCH_PYTHON}"
          FAKE_METAL_COMPILER_FOLDER="${CMAKE_CURRENT_SOURCE_DIR}/csrc/msl"
          FAKE_METAL_CACHE_FOLDER="${MOEFLUX_BENCH_CACHE}")
target_include_directories(fake_metal PRIVATE ${objc_includes} csrc)
target_include_directories(fake_metal SYSTEM PRIVATE ${objc_system_includes})
target_compile_options(fake_metal PRIVATE "$<$<COMPILE_LANGUAGE:OBJCXX>:${objc_options};-fobjc-runtime=gcc>")
# Linked into each program as they are: from an archive, only what is called by name would be.
target_sources(moeflux_core INTERFACE $<TARGET_OBJECTS:fake_metal>)
# GCC's standard library calls what it has deprecated itself; clang reports that.
target_compile_options(moeflux_core PRIVATE -Wno-deprecated-declarations)
# GNUstep has a block runtime of its own that does not copy blocks: the real one comes first.
target_link_libraries(moeflux_core PUBLIC -L${gcc_folder} BlocksRuntime gnustep-base objc ${CMAKE_DL_LIBS})
