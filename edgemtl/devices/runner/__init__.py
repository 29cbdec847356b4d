"""What ships inside a bundle as ``runner.pyz``: verifies, runs and measures it on the device.

The package stands alone, because a device has neither this product nor PyTorch: Python 3.8, NumPy
and the target's runtime are all it may import, and its own modules only by relative imports (inside
the archive the package is called ``runner``). One module of ``runtimes`` per runtime.
"""
