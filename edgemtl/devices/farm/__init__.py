"""Jobs on other machines: Dask's scheduler and workers, with TLS on both sides.

Scheduling, retries and resources are Dask's. What is here is around it: certificates, files by
their hash, a program per job that ends with its worker, and one sentence for what goes wrong.
How to use it: docs/farm.md.
"""
