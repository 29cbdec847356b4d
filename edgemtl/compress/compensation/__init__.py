"""Pruning judged after closed-form compensation: what is left is re-solved before it is judged.

A layer that reads removed channels is given what the kept ones explain of them (a least-squares
problem on second moments of its inputs), so that a channel costs only what no other can stand in
for. From one pass over calibration pictures come these moments (``moments.py``) and how much each
task minds an error in each output (the same pass); ``curves.py`` makes of them a price per group
and width, ``allocate.py`` one nested path of widths, ``check.py`` judges places on it on held-out
pictures, and ``method.py`` is the pruning method ``pagcp``.

The idea stands on least-squares channel pruning (He et al., ICCV 2017) and Optimal Brain Surgeon on
structures (ZipLM, Kurtic et al., NeurIPS 2023; OBC, Frantar et al., NeurIPS 2022).
"""
