// From Metal's errors to the exception types of error.h.
#pragma once
#import <Foundation/Foundation.h>
#import <Metal/Metal.h>

#include <optional>
#include <string>

#include "error.h"

namespace moeflux::metal {

std::string text_of(NSString* string);
NSString* string_of(const std::string& text);
// Metal's description of an error, or that it gave none.
std::string reason_of(NSError* error);

// Why a finished command buffer failed, or nothing if it completed.
std::optional<CommandBufferError> failure_of(id<MTLCommandBuffer> commands, const std::string& label);

CaptureError capture_error(const std::string& what, NSError* error);

}  // namespace moeflux::metal
