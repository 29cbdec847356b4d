"""Parts of ``bench_dynamic.py``: a small classification problem and the networks for it."""
