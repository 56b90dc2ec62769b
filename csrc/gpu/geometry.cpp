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

}  // namespace

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
