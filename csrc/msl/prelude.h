// First line of every translated shader: gives Metal's words their meaning for the compiler at hand.
#pragma once

#if defined(__CUDACC__) || defined(__CUDACC_RTC__)
#define MSL_TARGET_CUDA 1
#include "cuda.h"
#elif defined(MSL_MODE_CHECK)
#include "check.h"
#else
#define MSL_TARGET_HOST 1
#include "host.h"
#endif
