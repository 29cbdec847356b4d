"""Compile, evaluate and bench on a farm; the machinery is in ``edgemtl.devices.farm``."""
