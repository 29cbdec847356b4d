// The accelerator as software: its own C++, compiled for the processor. Right to the bit, not in time.
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "driver.h"
#include "program.h"
#include "weights.h"

extern "C" void accelerator(const int8_t *weights, const int32_t *parameters, int8_t *external,
                            int stage);

alignas(64) static int8_t external[EXTERNAL_BYTES];

static bool inside(int64_t offset, int64_t bytes) {
    return offset >= 0 && bytes >= 0 && offset + bytes <= int64_t(sizeof external);
}

extern "C" {

int edgemtl_write(int64_t offset, const void *data, int64_t bytes) {
    if (!inside(offset, bytes)) return 1;
    std::memcpy(external + offset, data, bytes);
    return 0;
}

int edgemtl_run(int stage) {
    accelerator(edgemtl_weights, edgemtl_parameters, external, stage);
#ifdef EDGEMTL_TRACE
    // For EdgeMTL's own check: all tensors that the processor reads or writes, each in its place.
    if (const char *path = std::getenv("EDGEMTL_TRACE")) {
        FILE *file = std::fopen(path, "wb");
        if (file == nullptr) return 1;
        const bool good = std::fwrite(external, 1, sizeof external, file) == sizeof external;
        if (std::fclose(file) != 0 || !good) return 1;
    }
#endif
    return 0;
}

int edgemtl_read(int64_t offset, void *data, int64_t bytes) {
    if (!inside(offset, bytes)) return 1;
    std::memcpy(data, external + offset, bytes);
    return 0;
}
}
