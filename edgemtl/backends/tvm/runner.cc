// Runs a compiled network on an Arm board: TVM's runtime and the C++ library are all it needs.
//
//   runner MODEL.so 1x3x320x320 serve
//       writes 'R'; then for every input on standard input (float32) 'O' and all outputs (float32)
//   runner MODEL.so 1x3x320x320 bench RUNS
//       prints one line of JSON with the milliseconds of each run, after three that are not counted
//   runner MODEL.so 1x3x320x320 selftest INPUT.npy [EXPECTED.npy MAX_ABS_ERROR]...
//       compares all outputs, in the order of the graph; exit code 10 when one differs
//
// Exit codes: 0 good, 2 wrong usage, 4 the runtime failed, 10 an output is not what was recorded.
#include <tvm/ffi/container/array.h>
#include <tvm/ffi/container/tensor.h>
#include <tvm/ffi/error.h>
#include <tvm/ffi/extra/module.h>

#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace ffi = tvm::ffi;

namespace {

constexpr std::size_t kAlignment = 64;

// Memory at an address that TVM's code takes.
struct Aligned {
  void AllocData(DLTensor* tensor) {
    std::size_t bytes = sizeof(float);
    for (int i = 0; i < tensor->ndim; ++i) bytes *= static_cast<std::size_t>(tensor->shape[i]);
    bytes = (bytes + kAlignment - 1) / kAlignment * kAlignment;
    tensor->data = std::aligned_alloc(kAlignment, bytes);
    if (tensor->data == nullptr) throw std::bad_alloc();
  }
  void FreeData(DLTensor* tensor) { std::free(tensor->data); }
};

std::size_t Elements(const ffi::Tensor& tensor) {
  std::size_t count = 1;
  for (int64_t extent : tensor.shape()) count *= static_cast<std::size_t>(extent);
  return count;
}

std::vector<int64_t> ParseShape(const std::string& text) {
  std::vector<int64_t> shape;
  std::size_t at = 0;
  while (at <= text.size()) {
    std::size_t end = text.find('x', at);
    if (end == std::string::npos) end = text.size();
    const int64_t extent = std::stoll(text.substr(at, end - at));
    if (extent <= 0 || extent > (1 << 24)) throw std::invalid_argument("shape");
    shape.push_back(extent);
    at = end + 1;
  }
  return shape;
}

class Network {
 public:
  Network(const std::string& path, const std::vector<int64_t>& shape)
      : module_(ffi::Module::LoadFromFile(path)),
        machine_(module_->GetFunction("vm_load_executable").value()().cast<ffi::Module>()),
        input_(ffi::Tensor::FromNDAlloc(Aligned(), ffi::ShapeView(shape.data(), shape.size()),
                                        DLDataType{kDLFloat, 32, 1}, DLDevice{kDLCPU, 0})) {
    constexpr int kPooled = 2;
    machine_->GetFunction("vm_initialization").value()(static_cast<int>(kDLCPU), 0, kPooled);
    main_ = machine_->GetFunction("main").value();
  }

  float* input() { return static_cast<float*>(input_.data_ptr()); }
  std::size_t input_elements() const { return Elements(input_); }

  std::vector<ffi::Tensor> Run() {
    ffi::Any result = main_(input_);
    if (auto one = result.as<ffi::Tensor>()) return {*one};
    std::vector<ffi::Tensor> outputs;
    for (const ffi::Any& value : result.cast<ffi::Array<ffi::Any>>()) {
      outputs.push_back(value.cast<ffi::Tensor>());
    }
    return outputs;
  }

 private:
  ffi::Module module_, machine_;
  ffi::Function main_;
  ffi::Tensor input_;
};

int Serve(Network& network) {
  const std::size_t wanted = network.input_elements();
  std::fputc('R', stdout);
  std::fflush(stdout);
  while (std::fread(network.input(), sizeof(float), wanted, stdin) == wanted) {
    const std::vector<ffi::Tensor> outputs = network.Run();
    std::fputc('O', stdout);
    for (const ffi::Tensor& output : outputs) {
      std::fwrite(output.data_ptr(), sizeof(float), Elements(output), stdout);
    }
    std::fflush(stdout);
  }
  return 0;
}

int Bench(Network& network, int runs) {
  std::memset(network.input(), 0, network.input_elements() * sizeof(float));
  for (int i = 0; i < 3; ++i) network.Run();
  std::printf("{\"samples_ms\": [");
  for (int i = 0; i < runs; ++i) {
    const auto began = std::chrono::steady_clock::now();
    network.Run();
    const std::chrono::duration<double, std::milli> took = std::chrono::steady_clock::now() - began;
    std::printf("%s%.4f", i ? ", " : "", took.count());
  }
  std::printf("]}\n");
  return 0;
}

// The values of a .npy file of format 1.0 with float32 in C order, as the bundle writes them.
std::vector<float> ReadNpy(const std::string& path) {
  std::ifstream stream(path, std::ios::binary);
  char head[10];
  if (!stream.read(head, sizeof head) || std::memcmp(head, "\x93NUMPY\x01\x00", 8) != 0) {
    throw std::runtime_error(path + " is no .npy file of format 1.0");
  }
  const auto low = static_cast<unsigned char>(head[8]), high = static_cast<unsigned char>(head[9]);
  std::string described(static_cast<std::size_t>(low) + 256U * high, '\0');
  stream.read(&described[0], static_cast<std::streamsize>(described.size()));
  if (described.find("'<f4'") == std::string::npos) throw std::runtime_error(path + ": no float32");
  std::string rest((std::istreambuf_iterator<char>(stream)), std::istreambuf_iterator<char>());
  std::vector<float> values(rest.size() / sizeof(float));
  std::memcpy(values.data(), rest.data(), values.size() * sizeof(float));
  return values;
}

int SelfTest(Network& network, const std::vector<std::string>& arguments) {
  const std::vector<float> input = ReadNpy(arguments.at(0));
  const std::size_t size = network.input_elements();
  if (input.empty() || input.size() % size) throw std::runtime_error("self-test input has another shape");
  bool good = true;
  const std::size_t cases = input.size() / size;
  for (std::size_t number = 0; number < cases; ++number) {
    std::memcpy(network.input(), input.data() + number * size, size * sizeof(float));
    const std::vector<ffi::Tensor> outputs = network.Run();
    if (arguments.size() != 1 + 2 * outputs.size()) throw std::runtime_error("one .npy file and one error per output are wanted");
    for (std::size_t index = 0; index < outputs.size(); ++index) {
      const std::vector<float> expected = ReadNpy(arguments[1 + 2 * index]);
      const std::size_t count = Elements(outputs[index]);
      if (expected.size() != cases * count) throw std::runtime_error("an output has another shape");
      const float* found = static_cast<const float*>(outputs[index].data_ptr());
      double largest = 0.0;
      for (std::size_t i = 0; i < count; ++i) {
        const double error = std::fabs(double(found[i]) - double(expected[number * count + i]));
        if (!(error <= largest)) largest = error;  // NaN counts as an error
      }
      const bool passed = largest <= std::stod(arguments[2 + 2 * index]);
      std::printf("case %zu output %zu: %.3g %s\n", number, index, largest, passed ? "ok" : "DIFFERS");
      good = good && passed;
    }
  }
  return good ? 0 : 10;
}

}  // namespace

int main(int count, char** words) {
  const std::vector<std::string> arguments(words + 1, words + count);
  if (arguments.size() < 3) {
    std::fprintf(stderr, "usage: runner MODEL.so SHAPE serve | bench RUNS | selftest INPUT.npy ...\n");
    return 2;
  }
  try {
    // The loader searches the system's folders for a name without a slash.
    const std::string& given = arguments[0];
    const std::string path = given.find('/') == std::string::npos ? "./" + given : given;
    Network network(path, ParseShape(arguments[1]));
    const std::vector<std::string> rest(arguments.begin() + 3, arguments.end());
    if (arguments[2] == "serve" && rest.empty()) return Serve(network);
    if (arguments[2] == "bench" && rest.size() == 1) return Bench(network, std::stoi(rest[0]));
    if (arguments[2] == "selftest" && !rest.empty()) return SelfTest(network, rest);
    std::fprintf(stderr, "unknown command '%s'\n", arguments[2].c_str());
    return 2;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 4;
  }
}
