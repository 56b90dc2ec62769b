#include "cuda/shared_object.h"

#include <dlfcn.h>

namespace moeflux::cuda {

SharedObject::SharedObject(const std::string& path) : handle_(dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL)) {
  if (handle_ != nullptr) return;
  const char* reason = dlerror();
  reason_ = reason == nullptr ? "cannot be loaded" : reason;
}

void* SharedObject::address_of(const char* name) const { return dlsym(handle_, name); }

}  // namespace moeflux::cuda
