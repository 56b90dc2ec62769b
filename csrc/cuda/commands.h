// What lists of commands are to the CUDA backend. Calls no driver.
#pragma once
#include <memory>

#include "cuda/allocation.h"
#include "cuda/library.h"
#include "gpu/command_list.h"

namespace moeflux::cuda {

class RecordedGraph;

struct BoundBuffer {
  std::shared_ptr<CudaAllocation> allocation;
  std::size_t offset;
  std::size_t nbytes;
  DevicePointer address;
  HostAllocation* host;  // the allocation, if it is one of the host
};

struct CudaBackend {
  static constexpr const char* name = "cuda";
  using Pipeline = CudaPipeline;
  using BoundBuffer = cuda::BoundBuffer;
  using Prepared = std::shared_ptr<RecordedGraph>;

  static Prepared prepared();
  // Throws DeviceError for a buffer of another device.
  static BoundBuffer bound(const Buffer& buffer);
  // Throws DeviceError for a buffer that cannot be copied or cleared.
  static void check_transfer(const char* what, const Buffer& buffer);
};

using DispatchCommand = gpu::DispatchCommand<CudaBackend>;
using CopyCommand = gpu::CopyCommand<CudaBackend>;
using ZeroCommand = gpu::ZeroCommand<CudaBackend>;
using ReplayCommand = gpu::ReplayCommand<CudaBackend>;
using Command = gpu::Command<CudaBackend>;
using CommandList = gpu::CommandList<CudaBackend>;
using CudaRecording = gpu::GpuRecording<CudaBackend>;

}  // namespace moeflux::cuda
