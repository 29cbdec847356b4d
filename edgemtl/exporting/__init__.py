"""From a torch network to an ONNX file that computes the same, and what that file costs."""
