// The part of Metal that csrc/metal calls, declared by hand after Apple's public documentation.
#pragma once
#import <Foundation/Foundation.h>

#import <Metal/MTLResource.h>

#import <Metal/MTLLibrary.h>

#import <Metal/MTLCounters.h>

#import <Metal/MTLCommandEncoder.h>

#import <Metal/MTLCommandBuffer.h>

#import <Metal/MTLResidencySet.h>

#import <Metal/MTLDevice.h>

#import <Metal/MTLCaptureManager.h>
