// weights.bin and parameters.bin as part of the library; the assembler reads them.
#pragma once
#include <cstdint>

__asm__(
    ".pushsection .rodata\n"
    ".balign 64\n"
    ".hidden edgemtl_weights\n"
    ".globl edgemtl_weights\n"
    "edgemtl_weights: .incbin \"weights.bin\"\n"
    ".globl edgemtl_weights_end\n"
    ".hidden edgemtl_weights_end\n"
    "edgemtl_weights_end:\n"
    ".balign 64\n"
    ".hidden edgemtl_parameters\n"
    ".globl edgemtl_parameters\n"
    "edgemtl_parameters: .incbin \"parameters.bin\"\n"
    ".globl edgemtl_parameters_end\n"
    ".hidden edgemtl_parameters_end\n"
    "edgemtl_parameters_end:\n"
    ".popsection\n");

extern "C" {
__attribute__((visibility("hidden"))) extern const int8_t edgemtl_weights[];
__attribute__((visibility("hidden"))) extern const int8_t edgemtl_weights_end[];
__attribute__((visibility("hidden"))) extern const int32_t edgemtl_parameters[];
__attribute__((visibility("hidden"))) extern const int32_t edgemtl_parameters_end[];
}
