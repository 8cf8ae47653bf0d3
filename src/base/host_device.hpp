// SPDX-License-Identifier: Apache-2.0
// Purpose: functions that run on the CPU and, where nvcc compiles them, on a GPU too. Non-goals: all else.
#pragma once

#if defined(__CUDACC__)
#define FEDSPALLM_HOST_DEVICE __host__ __device__
#else
#define FEDSPALLM_HOST_DEVICE
#endif
