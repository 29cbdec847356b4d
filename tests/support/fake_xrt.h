// A stand-in for AMD's runtime XRT, as far as driver_xrt.cpp uses it, written from memory of its API.
// A buffer has a host's and a device's side, so that a transfer that was forgotten is noticed; the
// "device" is the accelerator's C++. Installed by the test as each of XRT's three headers.
#pragma once
#include <cstdint>
#include <cstring>
#include <fstream>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

extern "C" void accelerator(const int8_t *weights, const int32_t *parameters, int8_t *external,
                            int stage);

enum xclBOSyncDirection { XCL_BO_SYNC_BO_TO_DEVICE = 0, XCL_BO_SYNC_BO_FROM_DEVICE = 1 };
enum ert_cmd_state { ERT_CMD_STATE_NEW = 1, ERT_CMD_STATE_COMPLETED = 4, ERT_CMD_STATE_ERROR = 5 };

namespace xrt {

struct uuid {};

struct device {
    explicit device(unsigned int index) {
        if (index != 0) throw std::runtime_error("no such device");
    }
    uuid load_xclbin(const std::string &file) {
        if (!std::ifstream(file)) throw std::runtime_error("no such file: " + file);
        return {};
    }
};

struct bo {
    std::shared_ptr<std::vector<char>> host, there;
    bo() = default;
    bo(const device &, size_t bytes, int)
        : host(std::make_shared<std::vector<char>>(bytes)),
          there(std::make_shared<std::vector<char>>(bytes, char(0x55))) {}
    void write(const void *data, size_t bytes, size_t seek) {
        if (seek + bytes > host->size()) throw std::out_of_range("write");
        std::memcpy(host->data() + seek, data, bytes);
    }
    void read(void *data, size_t bytes, size_t skip) {
        if (skip + bytes > host->size()) throw std::out_of_range("read");
        std::memcpy(data, host->data() + skip, bytes);
    }
    void sync(xclBOSyncDirection way, size_t bytes, size_t offset) {
        if (offset + bytes > host->size()) throw std::out_of_range("sync");
        char *one = host->data() + offset, *other = there->data() + offset;
        if (way == XCL_BO_SYNC_BO_TO_DEVICE) std::memcpy(other, one, bytes);
        else std::memcpy(one, other, bytes);
    }
};

struct run {
    ert_cmd_state wait() const { return ERT_CMD_STATE_COMPLETED; }
};

struct kernel {
    kernel(const device &, const uuid &, const std::string &name) {
        if (name != "accelerator") throw std::runtime_error("no such kernel: " + name);
    }
    int group_id(int argument) const { return argument; }
    run operator()(const bo &weights, const bo &parameters, const bo &external, int stage) const {
        accelerator(reinterpret_cast<const int8_t *>(weights.there->data()),
                    reinterpret_cast<const int32_t *>(parameters.there->data()),
                    reinterpret_cast<int8_t *>(external.there->data()), stage);
        return {};
    }
};

}  // namespace xrt
