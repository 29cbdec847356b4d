"""M3ViT: a vision transformer with a mixture of experts and one decoder per dense task."""
