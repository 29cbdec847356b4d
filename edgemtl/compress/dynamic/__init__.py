"""Dynamic masks: which channels a picture needs, predicted before they are computed.

The method is "fire together wire together" (Elkerdawy et al., CVPR 2022), extended to tasks and
made deployable: masks are predicted per picture for training and evaluation, and clustered into a
few physically pruned networks with a router for deployment.
"""
