// From shader text to a loaded shared object: the project's translator and compiler, with what they made kept by hash.
#include <dlfcn.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <map>
#include <mutex>
#include <set>
#include <sstream>

#import "shader_library.h"

namespace fake {
namespace {

namespace files = std::filesystem;

std::string read(const files::path& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), {}};
}

std::string quoted(const std::string& text) { return "'" + text + "'"; }

// Changes with everything that the result depends on: the text, the mode and the compiler's own files.
std::string key_of(const std::string& text, const std::string& mode) {
  std::ostringstream all;
  all << mode << '\n' << text;
  std::set<files::path> parts;
  for (const auto& entry : files::recursive_directory_iterator(FAKE_METAL_COMPILER_FOLDER)) {
    if (entry.is_regular_file() && entry.path().extension() != ".pyc") parts.insert(entry.path());
  }
  for (const files::path& part : parts) {
    struct stat status{};
    if (stat(part.c_str(), &status) != 0) continue;
    all << part.string() << status.st_size << '.' << status.st_mtim.tv_sec << '.' << status.st_mtim.tv_nsec << '\n';
  }
  char key[32];
  std::snprintf(key, sizeof key, "%016zx", std::hash<std::string>()(all.str()));
  return key;
}

void write_whole(const files::path& path, const std::string& content) {
  const files::path part = path.string() + "." + std::to_string(getpid());
  std::ofstream(part) << content;
  files::rename(part, path);
}

}  // namespace

Host::Host(const std::string& path) : object(dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL)) {
  if (object == nullptr) abort_over_misuse(dlerror());
  const auto load = [this](auto& function, const char* name) {
    function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(dlsym(object, name));
    if (function == nullptr) abort_over_misuse(std::string("a compiled library has no ") + name);
  };
  load(kernel_count, "msl_kernel_count");
  load(kernel_at, "msl_kernel_at");
  load(constant_count, "msl_constant_count");
  load(constant_at, "msl_constant_at");
  load(pipeline_create, "msl_pipeline_create");
  load(pipeline_destroy, "msl_pipeline_destroy");
  load(pipeline_kernel, "msl_pipeline_kernel");
  load(run, "msl_run");
}

Host::~Host() { dlclose(object); }

Compiled compile(const std::string& text) {
  // Two threads that compile the same text would do it twice.
  static std::mutex mutex;
  const std::lock_guard lock(mutex);
  const std::string mode = text_setting("mode", "default");
  const files::path cache = text_setting("cache", FAKE_METAL_CACHE_FOLDER);
  files::create_directories(cache);
  const std::string key = key_of(text, mode);
  const files::path known = cache / (key + ".path");
  if (const std::string object = read(known); !object.empty() && files::exists(object)) {
    return {std::make_shared<Host>(object), ""};
  }
  const files::path source = cache / (key + ".metal");
  const files::path output = cache / (key + "." + std::to_string(getpid()) + ".out");
  const files::path log = cache / (key + "." + std::to_string(getpid()) + ".log");
  write_whole(source, text);
  const std::string command = quoted(FAKE_METAL_PYTHON) + " " + quoted(FAKE_METAL_COMPILER_FOLDER "/compile.py") + " " +
                              quoted(source) + " --mode " + quoted(mode) + " --cache " + quoted(cache) + " >" +
                              quoted(output) + " 2>" + quoted(log);
  const int status = std::system(command.c_str());
  const std::string said = read(log);
  std::string object = read(output);
  while (!object.empty() && object.back() == '\n') object.pop_back();
  files::remove(output);
  files::remove(log);
  add("compilations", 1);
  if (status != 0) return {nullptr, said};
  write_whole(known, object);
  return {std::make_shared<Host>(object), ""};
}

}  // namespace fake
