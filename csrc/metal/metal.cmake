# The Metal backend: Objective-C++, and the shaders as text that the device compiles at run time.
enable_language(OBJCXX)
set(CMAKE_OBJCXX_STANDARD 20)
set(CMAKE_OBJCXX_STANDARD_REQUIRED ON)
set(CMAKE_OBJCXX_EXTENSIONS OFF)

set(shader_sources ${CMAKE_CURRENT_BINARY_DIR}/shader_sources.cpp)
file(GLOB shaders CONFIGURE_DEPENDS shaders/*.metal)
file(GLOB shader_parts CONFIGURE_DEPENDS shaders/*.h csrc/msl/*.py)
add_custom_command(
  OUTPUT ${shader_sources}
  COMMAND ${Python_EXECUTABLE} csrc/metal/embed_shaders.py ${shader_sources} ${shaders}
  DEPENDS csrc/metal/embed_shaders.py ${shaders} ${shader_parts}
  WORKING_DIRECTORY ${CMAKE_CURRENT_SOURCE_DIR}
  VERBATIM)

file(GLOB metal_sources CONFIGURE_DEPENDS csrc/metal/*.mm)
add_library(moeflux_metal OBJECT ${metal_sources} ${shader_sources})
set_target_properties(moeflux_metal PROPERTIES OBJCXX_VISIBILITY_PRESET hidden)
target_include_directories(moeflux_metal PRIVATE csrc shaders)
target_sources(moeflux_core PRIVATE $<TARGET_OBJECTS:moeflux_metal>)

if(APPLE)
  target_compile_options(moeflux_metal PRIVATE $<$<COMPILE_LANGUAGE:OBJCXX>:-fobjc-arc>)
  target_link_libraries(moeflux_core PUBLIC "-framework Metal" "-framework Foundation")
endif()
