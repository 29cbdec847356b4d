// What the processor's program asks of the accelerator. Two drivers answer it: driver_model.cpp runs
// the accelerator's C++ as software, driver_xrt.cpp the accelerator on a board. All return 0 when all
// went well. There is one accelerator: one thread at a time.
#pragma once
#include <cstdint>

extern "C" {
// Put a tensor into the external memory, at the offset that EdgeMTL gave it.
int edgemtl_write(int64_t offset, const void *data, int64_t bytes);
// Run the steps of a stage, and wait for them.
int edgemtl_run(int stage);
// Take a tensor out of the external memory.
int edgemtl_read(int64_t offset, void *data, int64_t bytes);
}
