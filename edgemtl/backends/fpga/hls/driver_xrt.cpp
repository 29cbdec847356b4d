// The accelerator on a board, by AMD's runtime XRT. NOT YET RUN ON A BOARD: it was compiled and run
// against a stand-in for XRT only. Build it where XRT is, in the folder with weights.bin, over the
// software model:
//
//   g++ -std=c++17 -O2 -shared -fPIC driver_xrt.cpp -o libaccelerator.so -lxrt_coreutil
//
// accelerator.xclbin is what the vendor's tools make from accelerator.cpp, with a kernel of that
// name. It is looked for in the working folder; EDGEMTL_XCLBIN names another place.
#include <xrt/xrt_bo.h>
#include <xrt/xrt_device.h>
#include <xrt/xrt_kernel.h>

#include <cstdio>
#include <cstdlib>
#include <exception>

#include "driver.h"
#include "program.h"
#include "weights.h"

namespace {

struct Board {
    xrt::device device;
    xrt::kernel kernel;
    xrt::bo weights, parameters, external;

    static const char *file() {
        const char *named = std::getenv("EDGEMTL_XCLBIN");
        return named == nullptr ? "accelerator.xclbin" : named;
    }

    static int64_t bytes_between(const void *first, const void *last) {
        return static_cast<const char *>(last) - static_cast<const char *>(first);
    }

    // Weights and parameters go over once.
    Board() : device(0), kernel(device, device.load_xclbin(file()), "accelerator") {
        weights = filled(edgemtl_weights, edgemtl_weights_end, 0);
        parameters = filled(edgemtl_parameters, edgemtl_parameters_end, 1);
        external = xrt::bo(device, EXTERNAL_BYTES, kernel.group_id(2));
    }

    xrt::bo filled(const void *first, const void *last, int argument) {
        const size_t bytes = static_cast<size_t>(bytes_between(first, last));
        xrt::bo made(device, bytes, kernel.group_id(argument));
        made.write(first, bytes, 0);
        made.sync(XCL_BO_SYNC_BO_TO_DEVICE, bytes, 0);
        return made;
    }
};

Board &board() {
    static Board one;
    return one;
}

bool inside(int64_t offset, int64_t bytes) {
    return offset >= 0 && bytes >= 0 && offset + bytes <= EXTERNAL_BYTES;
}

template <typename Work> int tried(Work work) {
    try {
        return work() ? 0 : 1;
    } catch (const std::exception &error) {
        std::fprintf(stderr, "the accelerator: %s\n", error.what());
        return 1;
    }
}

}  // namespace

extern "C" {

int edgemtl_write(int64_t offset, const void *data, int64_t bytes) {
    return tried([&] {
        if (!inside(offset, bytes)) return false;
        board().external.write(data, static_cast<size_t>(bytes), static_cast<size_t>(offset));
        board().external.sync(XCL_BO_SYNC_BO_TO_DEVICE, static_cast<size_t>(bytes),
                              static_cast<size_t>(offset));
        return true;
    });
}

int edgemtl_run(int stage) {
    return tried([&] {
        Board &one = board();
        xrt::run run = one.kernel(one.weights, one.parameters, one.external, stage);
        return run.wait() == ERT_CMD_STATE_COMPLETED;
    });
}

int edgemtl_read(int64_t offset, void *data, int64_t bytes) {
    return tried([&] {
        if (!inside(offset, bytes)) return false;
        board().external.sync(XCL_BO_SYNC_BO_FROM_DEVICE, static_cast<size_t>(bytes),
                              static_cast<size_t>(offset));
        board().external.read(data, static_cast<size_t>(bytes), static_cast<size_t>(offset));
        return true;
    });
}
}
