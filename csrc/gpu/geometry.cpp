#include "gpu/geometry.h"

#include <algorithm>
#include <iterator>

#include "error.h"

namespace moeflux::gpu {
namespace {

std::vector<Kernel> joined() {
  std::vector<Kernel> kernels;
  for (const auto family : {embedding_kernels, norm_kernels, matmul_kernels, attention_kernels, gated_delta_net_kernels,
                            moe_kernels, router_kernels}) {
    std::ranges::move(family(), std::back_inserter(kernels));
  }
  std::ranges::sort(kernels, {}, &Kernel::name);
  return kernels;
}

std::string join(const auto& names) {
  std::string text;
  for (const auto& name : names) text += (text.empty() ? "" : ", ") + std::string(name);
  return text.empty() ? "none" : text;
}

}  // namespace

Constants specialise(const Kernel& kernel, Constants constants, bool fixed_point) {
  std::vector<std::string> got;
  for (const auto& [name, value] : constants) {
    if (!kernel.takes_fixed_point || name != "fixed_point") got.push_back(name);
  }
  std::vector<std::string> wanted(kernel.constants.begin(), kernel.constants.end());
  std::ranges::sort(wanted);
  if (got != wanted) {
    throw DeviceError("kernel " + std::string(kernel.name) + " needs the constants " + join(wanted) + ", got " +
                      join(got));
  }
  if (kernel.takes_fixed_point) constants.emplace("fixed_point", fixed_point);
  return constants;
}

const std::vector<Kernel>& gpu_kernels() {
  static const std::vector<Kernel> kernels = joined();
  return kernels;
}

const Kernel& gpu_kernel(std::string_view name) {
  const std::vector<Kernel>& kernels = gpu_kernels();
  const auto found = std::ranges::lower_bound(kernels, name, {}, &Kernel::name);
  if (found != kernels.end() && found->name == name) return *found;
  std::vector<std::string> names;
  for (const Kernel& kernel : kernels) names.emplace_back(kernel.name);
  throw KernelNotFoundError(std::string(name), std::move(names));
}

}  // namespace moeflux::gpu
