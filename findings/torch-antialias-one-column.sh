#!/usr/bin/env bash
# Expected: torch's antialiased resize (interpolate, antialias=True) is separable, so a picture that is one column wide is resized like any column of a wider picture.
# What happens: on a CPU every row of the result repeats row 0 when the result is one column wide (strips, spectra, pooled or "unit vector" inputs); bilinear and bicubic, float32 and float64, up and down. Without antialias, or with two columns, it is right; no warning.
# Versions: torch 2.13.0 (CPU wheel, x86-64 Linux, Python 3.11), numpy 2.4.2.
# Why it matters: whoever makes the resize's weights from unit vectors of one column, or resizes one-column maps, gets plausible wrong numbers; an export that computes it rightly looks wrong beside torch.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.2 2>/dev/null
"$folder/venv/bin/python" - <<'PY'
import sys
import torch
import torch.nn.functional as F

print("torch", torch.__version__)
column = torch.arange(8.0).view(1, 1, 8, 1)
wrong = 0
for mode in ("bilinear", "bicubic"):
    for kind in (torch.float32, torch.float64):
        for rows in (4, 16):
            x = column.to(kind)
            one = F.interpolate(x, (rows, 1), mode=mode, antialias=True).flatten()
            wide = F.interpolate(x.expand(1, 1, 8, 2), (rows, 2), mode=mode, antialias=True)[0, 0, :, 0]
            wrong += bool((one == one[0]).all()) and float((one - wide).abs().max()) > 1
            if rows == 4 and kind is torch.float32:
                plain = F.interpolate(x, (rows, 1), mode=mode).flatten()
                told = [[round(v, 3) for v in t.tolist()] for t in (one, wide, plain)]
                print(f"{mode}: one column {told[0]}, the same beside its twin {told[1]}, without antialias {told[2]}")
print(f"{wrong} of 8 cases repeat the first row")
sys.exit(0 if wrong == 8 else 1)
PY
