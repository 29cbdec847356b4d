// The multiplier array and the unit that rounds, as accelerator.cpp asks a synthesis tool for them:
// for open tools, which count multipliers and cycles where the vendor's are not there. Not shipped.

// Each cycle, a word of COLUMNS values times ROWS x COLUMNS weights is added to ROWS sums.
module pe_array #(parameter ROWS = 4, parameter COLUMNS = 4) (
    input clock,
    input first,  // of a sum: begin at the bias
    input valid,
    input [8 * COLUMNS - 1:0] values,
    input [8 * ROWS * COLUMNS - 1:0] weights,
    input [32 * ROWS - 1:0] biases,
    output reg [32 * ROWS - 1:0] sums
);
    genvar row, column;
    generate
        for (row = 0; row < ROWS; row = row + 1) begin : rows
            wire signed [31:0] partial [0:COLUMNS];
            assign partial[0] = first ? biases[32 * row +: 32] : sums[32 * row +: 32];
            for (column = 0; column < COLUMNS; column = column + 1) begin : columns
                wire signed [7:0] weight = weights[8 * (row * COLUMNS + column) +: 8];
                wire signed [7:0] value = values[8 * column +: 8];
                wire signed [15:0] product = weight * value;
                assign partial[column + 1] = partial[column] + product;
            end
            always @(posedge clock) if (valid) sums[32 * row +: 32] <= partial[COLUMNS];
        end
    endgenerate
endmodule

// A sum to the next layer's int8: (sum * multiplier + 2^(shift-1)) >> shift, limited.
module requantise (
    input clock,
    input signed [31:0] sum,
    input [15:0] multiplier,
    input [5:0] shift,
    output reg signed [7:0] result
);
    wire signed [16:0] factor = {1'b0, multiplier};
    reg signed [48:0] product;
    wire signed [48:0] half = 49'sd1 <<< (shift - 6'd1);
    wire signed [48:0] moved = (product + half) >>> shift;
    always @(posedge clock) begin
        product <= sum * factor;
        result <= moved < -127 ? -8'sd127 : moved > 127 ? 8'sd127 : moved[7:0];
    end
endmodule
