"""What verbs do on a farm; the machinery is in ``edgemtl.devices.farm``."""
