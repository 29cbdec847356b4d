// The accelerator of an EdgeMTL bundle, in C++ for high-level synthesis. program.h, written for one
// network and one design, holds the array's size, the memories' sizes and the list of steps.
//
// One engine runs all steps one after the other. The pragmas are for the synthesis tool (AMD Vitis
// HLS spelling); a C++ compiler ignores them, and then this file is the simulation. All arrays and
// unrolled loops have constant sizes, and every other loop names the most it can run. Only integers
// of 8, 16, 32 and 64 bits are used. The arithmetic is defined by EdgeMTL's NumPy reference, which
// this must equal bit by bit.

#include <cstdint>

#include "program.h"

namespace {

const int WORD = ROWS * COLUMNS;

// Activations that stay on the chip, and two halves of weights: one is read, one is filled.
int8_t chip[CHIP_BYTES];
int8_t weight_buffer[2][WEIGHT_WORDS][WORD];
int32_t bias_buffer[2][ROWS];
int32_t rounding_buffer[2][ROWS];

int least(int a, int b) { return a < b ? a : b; }

int8_t *place(const Place &where, int8_t *external) {
    return where.on_chip ? chip + where.offset : external + where.offset;
}

int32_t fetch(const int8_t *base, int bits, int index) {
    if (bits == 8) return base[index];
    return reinterpret_cast<const int16_t *>(base)[index];
}

void store(int8_t *base, int bits, int index, int64_t value) {
    if (bits == 8) {
        base[index] = static_cast<int8_t>(value);
    } else if (bits == 16) {
        reinterpret_cast<int16_t *>(base)[index] = static_cast<int16_t>(value);
    } else {
        reinterpret_cast<int32_t *>(base)[index] = static_cast<int32_t>(value);
    }
}

// (value + one half) >> shift, rounded towards plus infinity, limited.
int64_t shifted(int64_t value, int shift, int32_t low, int32_t high) {
    const int64_t moved = (value + (int64_t(1) << (shift - 1))) >> shift;
    return moved < low ? low : moved > high ? high : moved;
}

// A sum of products to the result's number; rounding holds the shift above 16 bits of multiplier.
int64_t finish(const Step &step, int32_t sum, int32_t rounding) {
    if (!step.rounded) return sum;
    const int64_t product = int64_t(sum) * (rounding & 0xFFFF);
    const int64_t value = shifted(product, rounding >> 16, step.low, step.high);
    return step.table < 0 ? value : TABLES[step.table][value - step.low];
}

// Read one part of a step's weights (ROWS output channels) into a half of the buffer. Outside, the
// weights lie without gaps; channels that do not fill the array are filled up with zeros here.
void load_part(const Step &step, int part, int half, const int8_t *weights,
               const int32_t *parameters) {
    const int first = part * ROWS;
    const int rows = least(ROWS, step.channels - first);
    const int taps = step.kernel_height * step.kernel_width;
    const int depth = step.op == DEPTHWISE ? taps : step.in_channels;
    const int repeats = step.op == DEPTHWISE ? 1 : taps;
    const int words = (depth + COLUMNS - 1) / COLUMNS;
    const int8_t *source = weights + step.weights + int64_t(first) * repeats * depth;
    for (int row = 0; row < ROWS; row++) {
        const int channel = step.parameters + 2 * (first + row);
        bias_buffer[half][row] = row < rows ? parameters[channel] : 0;
        rounding_buffer[half][row] = row < rows ? parameters[channel + 1] : 1 << 16;
        for (int repeat = 0; repeat < repeats; repeat++) {
#pragma HLS loop_tripcount min = 1 max = MOST_TAPS
            for (int word = 0; word < words; word++) {
#pragma HLS loop_tripcount min = 1 max = WEIGHT_WORDS
#pragma HLS pipeline II = 1
                for (int column = 0; column < COLUMNS; column++) {
                    const int at = word * COLUMNS + column;
                    const bool there = row < rows && at < depth;
                    weight_buffer[half][repeat * words + word][row * COLUMNS + column] =
                        there ? source[(row * repeats + repeat) * depth + at] : 0;
                }
            }
        }
    }
}

// ROWS output channels of a convolution or matrix product: WORD products per cycle.
void conv_part(const Step &step, int part, int half, const int8_t *in, int8_t *out) {
#pragma HLS array_partition variable = weight_buffer complete dim = 3
    const int first = part * ROWS;
    const int rows = least(ROWS, step.channels - first);
    const int words = (step.in_channels + COLUMNS - 1) / COLUMNS;
    for (int y = 0; y < step.out_height; y++) {
#pragma HLS loop_tripcount min = 1 max = MOST_HEIGHT
        for (int x = 0; x < step.out_width; x++) {
#pragma HLS loop_tripcount min = 1 max = MOST_WIDTH
            int32_t sums[ROWS];
#pragma HLS array_partition variable = sums complete
            for (int row = 0; row < ROWS; row++) {
#pragma HLS unroll
                sums[row] = bias_buffer[half][row];
            }
            for (int tap = 0; tap < step.kernel_height * step.kernel_width; tap++) {
#pragma HLS loop_tripcount min = 1 max = MOST_TAPS
                const int ky = tap / step.kernel_width, kx = tap % step.kernel_width;
                const int iy = y * step.stride_y - step.pad_y + ky * step.dilation_y;
                const int ix = x * step.stride_x - step.pad_x + kx * step.dilation_x;
                if (iy < 0 || iy >= step.in_height || ix < 0 || ix >= step.in_width) continue;
                const int8_t *pixel = in + (iy * step.in_width + ix) * step.in_channels;
                for (int word = 0; word < words; word++) {
#pragma HLS loop_tripcount min = 1 max = MOST_WORDS
#pragma HLS pipeline II = 1
                    const int8_t *weight = weight_buffer[half][tap * words + word];
                    const int8_t *values = pixel + word * COLUMNS;
                    for (int row = 0; row < ROWS; row++) {
#pragma HLS unroll
                        int32_t products = 0;
                        for (int column = 0; column < COLUMNS; column++) {
#pragma HLS unroll
                            // Beyond the last channel the weight is zero.
                            products += int32_t(weight[row * COLUMNS + column]) * values[column];
                        }
                        sums[row] += products;
                    }
                }
            }
            const int at = (y * step.out_width + x) * step.out_channels + step.first + first;
            for (int row = 0; row < rows; row++) {
#pragma HLS loop_tripcount min = 1 max = ROWS
                store(out, step.out_bits, at + row,
                      finish(step, sums[row], rounding_buffer[half][row]));
            }
        }
    }
}

// ROWS channels of a depthwise convolution: a row of the array per channel, a column per tap.
void depthwise_part(const Step &step, int part, int half, const int8_t *in, int8_t *out) {
    const int first = part * ROWS;
    const int rows = least(ROWS, step.channels - first);
    for (int y = 0; y < step.out_height; y++) {
#pragma HLS loop_tripcount min = 1 max = MOST_HEIGHT
        for (int x = 0; x < step.out_width; x++) {
#pragma HLS loop_tripcount min = 1 max = MOST_WIDTH
#pragma HLS pipeline II = 1
            int32_t sums[ROWS];
            for (int row = 0; row < ROWS; row++) {
#pragma HLS unroll
                sums[row] = bias_buffer[half][row];
            }
            for (int tap = 0; tap < step.kernel_height * step.kernel_width; tap++) {
#pragma HLS loop_tripcount min = 1 max = MOST_TAPS
#pragma HLS unroll
                const int ky = tap / step.kernel_width, kx = tap % step.kernel_width;
                const int iy = y * step.stride_y - step.pad_y + ky * step.dilation_y;
                const int ix = x * step.stride_x - step.pad_x + kx * step.dilation_x;
                if (iy < 0 || iy >= step.in_height || ix < 0 || ix >= step.in_width) continue;
                const int8_t *pixel = in + (iy * step.in_width + ix) * step.in_channels + first;
                const int8_t *weight = weight_buffer[half][tap / COLUMNS];
                for (int row = 0; row < ROWS; row++) {
#pragma HLS unroll
                    sums[row] += int32_t(weight[row * COLUMNS + tap % COLUMNS]) * pixel[row];
                }
            }
            const int at = (y * step.out_width + x) * step.out_channels + step.first + first;
            for (int row = 0; row < rows; row++) {
#pragma HLS loop_tripcount min = 1 max = ROWS
                store(out, step.out_bits, at + row,
                      finish(step, sums[row], rounding_buffer[half][row]));
            }
        }
    }
}

// Steps without weights: a sum of two tensors (or one in another scale), nearest upsampling,
// maximum and average over windows.
void move(const Step &step, const int8_t *in, const int8_t *other, int8_t *out,
          const int32_t *parameters) {
    for (int y = 0; y < step.out_height; y++) {
#pragma HLS loop_tripcount min = 1 max = MOST_HEIGHT
        for (int x = 0; x < step.out_width; x++) {
#pragma HLS loop_tripcount min = 1 max = MOST_WIDTH
            const int at = (y * step.out_width + x) * step.out_channels + step.first;
            for (int channel = 0; channel < step.channels; channel++) {
#pragma HLS loop_tripcount min = 1 max = MOST_CHANNELS
#pragma HLS pipeline II = 1
                int64_t value = 0;
                if (step.op == ADD) {
                    const int from = (y * step.in_width + x) * step.in_channels + channel;
                    const int64_t first = fetch(in, step.in_bits, from);
                    value = first * parameters[step.parameters];
                    if (other != nullptr) {
                        const int64_t second = fetch(other, step.other_bits, from);
                        value += second * parameters[step.parameters + 1];
                    }
                    value = shifted(value, parameters[step.parameters + 2], step.low, step.high);
                } else if (step.op == UPSAMPLE) {
                    const int iy = y / step.factor_y, ix = x / step.factor_x;
                    const int from = (iy * step.in_width + ix) * step.in_channels + channel;
                    value = fetch(in, step.in_bits, from);
                } else {
                    value = step.op == MAXPOOL ? INT16_MIN : 0;
                    for (int tap = 0; tap < step.kernel_height * step.kernel_width; tap++) {
#pragma HLS loop_tripcount min = 1 max = MOST_TAPS
                        const int ky = tap / step.kernel_width, kx = tap % step.kernel_width;
                        const int iy = y * step.stride_y - step.pad_y + ky * step.dilation_y;
                        const int ix = x * step.stride_x - step.pad_x + kx * step.dilation_x;
                        if (iy < 0 || iy >= step.in_height) continue;
                        if (ix < 0 || ix >= step.in_width) continue;
                        const int from = (iy * step.in_width + ix) * step.in_channels + channel;
                        const int64_t found = fetch(in, step.in_bits, from);
                        if (step.op == AVERAGE) value += found;
                        else if (found > value) value = found;
                    }
                    if (step.op == AVERAGE) {
                        const int32_t rounding = parameters[step.parameters + 2 * channel + 1];
                        value = finish(step, static_cast<int32_t>(value), rounding);
                    }
                }
                store(out, step.out_bits, at + channel, value);
            }
        }
    }
}

bool weighted(const Step &step) { return step.op == CONV || step.op == DEPTHWISE; }

// Compute one part while the next one, of this step or of the next, loads into the other half.
void part_of(const Step &step, int part, int half, const Step *next, int next_part,
             const int8_t *weights, const int32_t *parameters, const int8_t *in, int8_t *out) {
#pragma HLS dataflow
    if (next != nullptr) load_part(*next, next_part, 1 - half, weights, parameters);
    if (step.op == CONV) conv_part(step, part, half, in, out);
    else depthwise_part(step, part, half, in, out);
}

}  // namespace

// Run the steps of one stage.
//   weights, parameters: of the network, as EdgeMTL wrote them (weights.bin, parameters.bin).
//   external: EXTERNAL_BYTES; holds the stage's inputs, and its outputs afterwards.
extern "C" void accelerator(const int8_t *weights, const int32_t *parameters, int8_t *external,
                            int stage) {
#pragma HLS interface m_axi port = weights bundle = weights
#pragma HLS interface m_axi port = parameters bundle = weights
#pragma HLS interface m_axi port = external bundle = activations
#pragma HLS bind_storage variable = chip type = ram_2p
    int half = 0;
    bool loaded = false;
    for (int index = 0; index < STEPS; index++) {
        const Step &step = PROGRAM[index];
        if (step.stage != stage) continue;
        const Step *after = index + 1 < STEPS ? &PROGRAM[index + 1] : nullptr;
        if (after != nullptr && (after->stage != stage || !weighted(*after))) after = nullptr;
        const int8_t *in = place(step.in, external);
        int8_t *out = place(step.out, external);
        if (!weighted(step)) {
            const int8_t *other = step.inputs > 1 ? place(step.other, external) : nullptr;
            if (after != nullptr) load_part(*after, 0, half, weights, parameters);
            loaded = after != nullptr;
            move(step, in, other, out, parameters);
            continue;
        }
        if (!loaded) load_part(step, 0, half, weights, parameters);
        const int parts = (step.channels + ROWS - 1) / ROWS;
        for (int part = 0; part < parts; part++) {
#pragma HLS loop_tripcount min = 1 max = MOST_PARTS
            const bool last = part + 1 == parts;
            part_of(step, part, half, last ? after : &step, last ? 0 : part + 1, weights,
                    parameters, in, out);
            half = 1 - half;
        }
        loaded = after != nullptr;
    }
}
