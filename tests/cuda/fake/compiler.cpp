// An NVRTC that compiles translated shaders for the host, with csrc/msl/compile.py. Its "cubin" names the shared
// object.
#include <array>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <sstream>
#include <string>

#include <unistd.h>

#define ENTRY extern "C" __attribute__((visibility("default")))

struct Program {
  std::string source;
  std::string log;
  std::string image;
};

namespace {

constexpr int INVALID_OPTION = 5;
constexpr int COMPILATION = 6;

std::atomic<int> compile_count{0};
std::atomic<int> next_failure{0};
std::atomic<int> program_count{0};

std::string output_of(const std::string& command, int& status) {
  std::string text;
  FILE* const pipe = popen(command.c_str(), "r");
  std::array<char, 4096> piece;
  for (std::size_t n; (n = std::fread(piece.data(), 1, piece.size(), pipe)) > 0;) text.append(piece.data(), n);
  status = pclose(pipe);
  return text;
}

// The shared object's path, or what the compiler said.
std::string compiled(const std::string& source, int& status) {
  const std::string file =
      std::string(FAKE_CACHE) + "/program-" + std::to_string(getpid()) + "-" + std::to_string(program_count++) + ".cpp";
  std::ofstream(file) << source;
  const std::string script = "import sys; from pathlib import Path; sys.path.insert(0, '" FAKE_MSL
                             "'); from compile import Compiler; "
                             "print(Compiler('" FAKE_COMPILER "', Path('" FAKE_CACHE
                             "')).shared_object(Path(sys.argv[1]).read_text(), "
                             "'default'))";
  return output_of(std::string(FAKE_PYTHON) + " -c \"" + script + "\" " + file + " 2>&1", status);
}

}  // namespace

ENTRY int nvrtcVersion(int* major, int* minor) {
  *major = FAKE_MAJOR;
  *minor = 0;
  return 0;
}
ENTRY const char* nvrtcGetErrorString(int result) {
  return result == COMPILATION ? "NVRTC_ERROR_COMPILATION" : "NVRTC_ERROR_OF_THE_FAKE";
}
ENTRY int nvrtcGetNumSupportedArchs(int* count) {
  *count = 2;
  return 0;
}
ENTRY int nvrtcGetSupportedArchs(int* numbers) {
  numbers[0] = 80;
  numbers[1] = 90;
  return 0;
}
ENTRY int nvrtcCreateProgram(Program** program, const char* source, const char*, int n_headers, const char* const*,
                             const char* const* names) {
  *program = new Program{source, "", ""};
  for (int i = 0; i < n_headers; ++i) {
    if (std::strcmp(names[i], "prelude.h") == 0) return 0;
  }
  (*program)->log = "no prelude.h among the headers";
  return 0;
}
ENTRY int nvrtcDestroyProgram(Program** program) {
  delete *program;
  return 0;
}
ENTRY int nvrtcCompileProgram(Program* program, int n_options, const char* const* options) {
  ++compile_count;
  if (!program->log.empty()) return COMPILATION;
  if (next_failure != 0) {
    program->log = "shaders/planted.metal(7): error: planted";
    return next_failure.exchange(0);
  }
  std::string constants;
  bool has_architecture = false;
  for (int i = 0; i < n_options; ++i) {
    const std::string option = options[i];
    constexpr char VALUE[] = "-DMSL_VALUE_";
    has_architecture = has_architecture || option == "--gpu-architecture=sm_90" || option == "--gpu-architecture=sm_80";
    if (option.rfind(VALUE, 0) != 0) continue;
    const std::size_t equals = option.find('=');
    constants += option.substr(sizeof VALUE - 1, equals - sizeof VALUE + 1) + " " + option.substr(equals + 1) + "\n";
  }
  if (!has_architecture) return INVALID_OPTION;
  int status = 0;
  std::string path = compiled(program->source, status);
  if (status != 0) {
    program->log = path;
    return COMPILATION;
  }
  program->image = "fake cubin\n" + path + constants + "end\n";
  return 0;
}
ENTRY int nvrtcGetProgramLogSize(Program* program, std::size_t* nbytes) {
  *nbytes = program->log.size() + 1;
  return 0;
}
ENTRY int nvrtcGetProgramLog(Program* program, char* text) {
  std::memcpy(text, program->log.c_str(), program->log.size() + 1);
  return 0;
}
ENTRY int nvrtcGetCUBINSize(Program* program, std::size_t* nbytes) {
  *nbytes = program->image.size() + 1;
  return 0;
}
ENTRY int nvrtcGetCUBIN(Program* program, char* image) {
  std::memcpy(image, program->image.c_str(), program->image.size() + 1);
  return 0;
}

// For tests: how often it compiled since the last call, and the result of the next time.
ENTRY int fake_compile_count() { return compile_count.exchange(0); }
ENTRY void fake_fail_next_compile(int result) { next_failure = result; }
