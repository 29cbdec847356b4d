"""What runtimes are known to do otherwise than ONNX says, by attribute (rules.json, measured)."""
