// From the CUDA driver's results to the exception types of error.h.
#pragma once
#include <string>

#include "cuda/driver.h"
#include "error.h"

namespace moeflux::cuda {

// Why a command buffer failed.
CommandBufferError command_error(const Driver& driver, Result result, const std::string& label);

// Throws OutOfMemoryError if there was no room for `nbytes`, else DeviceError.
void check_allocation(const Driver& driver, Result result, std::size_t nbytes);

}  // namespace moeflux::cuda
