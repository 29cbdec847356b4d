"""An accelerator for FPGA boards: a model of the device, and HLS C++ of its integer part."""
