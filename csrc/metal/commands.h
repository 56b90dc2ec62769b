// What lists of commands are to the Metal backend. Calls no Metal.
#pragma once
#include <memory>

#include "gpu/command_list.h"
#include "metal/allocation.h"
#include "metal/library.h"

namespace moeflux::metal {

struct BoundBuffer {
  std::shared_ptr<MetalAllocation> allocation;
  std::size_t offset;
};

struct MetalBackend {
  static constexpr const char* name = "metal";
  using Pipeline = MetalPipeline;
  using BoundBuffer = metal::BoundBuffer;
  struct Prepared {};

  static Prepared prepared() { return {}; }
  // Throws DeviceError for a buffer of another device.
  static BoundBuffer bound(const Buffer& buffer);
  // Throws DeviceError for a buffer that cannot be copied or cleared.
  static void check_transfer(const char* what, const Buffer& buffer);
};

using DispatchCommand = gpu::DispatchCommand<MetalBackend>;
using CopyCommand = gpu::CopyCommand<MetalBackend>;
using ZeroCommand = gpu::ZeroCommand<MetalBackend>;
using ReplayCommand = gpu::ReplayCommand<MetalBackend>;
using Command = gpu::Command<MetalBackend>;
using CommandList = gpu::CommandList<MetalBackend>;
using MetalRecording = gpu::GpuRecording<MetalBackend>;

}  // namespace moeflux::metal
