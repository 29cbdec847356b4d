"""TensorRT without a GPU: what can be known of a Jetson board before it is asked."""
