#include "cuda/kernel_folder.h"

#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <system_error>

namespace moeflux::cuda {
namespace {

namespace fs = std::filesystem;

// Tells apart what the threads of this process write.
std::string temporary_suffix() {
  static std::atomic<unsigned> count{0};
  std::string suffix(".");
  suffix.append(std::to_string(getpid())).append(".").append(std::to_string(count++));
  return suffix;
}

}  // namespace

KernelFolder::KernelFolder(const std::string& path, const std::string& version)
    : folder_(path.empty() ? "" : (fs::path(path) / version).string()) {}

std::optional<std::string> KernelFolder::find(const std::string& name) const {
  if (folder_.empty()) return {};
  std::ifstream file(fs::path(folder_) / name, std::ios::binary);
  if (!file) return {};
  std::string image{std::istreambuf_iterator<char>(file), {}};
  if (file.bad() || image.empty()) return {};
  return image;
}

void KernelFolder::keep(const std::string& name, const std::string& image) const {
  if (folder_.empty()) return;
  // A full disk or a read-only home costs the next start its time, and this one nothing.
  std::error_code ignored;
  fs::create_directories(folder_, ignored);
  const fs::path temporary = fs::path(folder_) / (name + temporary_suffix());
  bool written = false;
  {
    std::ofstream file(temporary, std::ios::binary);
    file.write(image.data(), static_cast<std::streamsize>(image.size()));
    file.close();
    written = !file.fail();
  }
  if (written) fs::rename(temporary, fs::path(folder_) / name, ignored);
  if (!written || ignored) fs::remove(temporary, ignored);
}

}  // namespace moeflux::cuda
