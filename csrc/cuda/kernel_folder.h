// Compiled kernels kept on disk, so that a program's next start need not compile them. Knows names and bytes.
#pragma once
#include <optional>
#include <string>

namespace moeflux::cuda {

class KernelFolder {
 public:
  // Images that fit `version` lie in a folder of its own below `path`, which is made when first needed; "" keeps none.
  KernelFolder(const std::string& path, const std::string& version);

  // Nothing if it is not there or cannot be read.
  std::optional<std::string> find(const std::string& name) const;
  // Other processes see all of it or nothing. A folder that cannot be written to keeps nothing.
  void keep(const std::string& name, const std::string& image) const;

 private:
  std::string folder_;
};

}  // namespace moeflux::cuda
