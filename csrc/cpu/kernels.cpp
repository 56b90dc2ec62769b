// Joins the kernel families into one table.
#include "cpu/kernels.h"

#include <iterator>

namespace moeflux::cpu {

std::vector<Kernel> all_kernels() {
  std::vector<Kernel> kernels;
  for (const auto family : {embedding_kernels, norm_kernels, matmul_kernels, attention_kernels,
                            attention_prepare_kernels, gated_delta_net_kernels, moe_kernels, router_kernels}) {
    std::vector<Kernel> members = family();
    kernels.insert(kernels.end(), std::make_move_iterator(members.begin()), std::make_move_iterator(members.end()));
  }
  return kernels;
}

}  // namespace moeflux::cpu
