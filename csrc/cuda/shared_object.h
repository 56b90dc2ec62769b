// A shared library opened at run time.
#pragma once
#include <string>

namespace moeflux::cuda {

// Stays loaded for the life of the process: the driver and the compiler have threads of their own.
class SharedObject {
 public:
  // Not open if it cannot be loaded; `reason` then says why.
  explicit SharedObject(const std::string& path);

  bool is_open() const { return handle_ != nullptr; }
  const std::string& reason() const { return reason_; }
  // Sets a pointer to the function of that name. False if there is none.
  template <typename Function>
  bool find(Function*& function, const char* name) const {
    function = reinterpret_cast<Function*>(address_of(name));
    return function != nullptr;
  }

 private:
  void* address_of(const char* name) const;

  void* handle_;
  std::string reason_;
};

}  // namespace moeflux::cuda
