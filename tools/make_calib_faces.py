"""Render synthetic, human-like faces with exactly known boxes, landmarks and head poses.

The output has the layout of the project's real face data: OUTPUT/train and OUTPUT/val, each with
`images/` and `label.txt`. See calib_data/faces/README.md for the columns and for what these
pictures are good for, and what not.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path
from typing import NoReturn

import cv2
import numpy as np

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parent))

from calibfaces.closeup import render_closeup
from calibfaces.head import FaceLabel
from calibfaces.scene import render_image

__all__ = ["FaceLabel", "image_rng", "main", "render_image", "write_split"]

SPLITS = ("train", "val")
JPEG_QUALITY = 88
LARGEST_COUNT = 1_000_000


def image_rng(seed: int, split: str, index: int) -> np.random.Generator:
    """The generator of one image: the splits and images never share a stream."""
    return np.random.default_rng([seed, SPLITS.index(split), index])


def write_split(folder: Path, split: str, count: int, seed: int, closeups: bool = False) -> None:
    """Render `count` images of one split into `folder`/`split`, which appears only complete.

    `closeups` renders one large head an image, at any pose, instead of scenes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{split}-", dir=folder))
    try:
        # mkdtemp makes a private folder; data sets are meant to be read by others.
        temporary.chmod(0o755)
        (temporary / "images").mkdir()
        lines: list[str] = []
        for index in range(count):
            rng = image_rng(seed, split, index)
            if closeups:
                image, label = render_closeup(rng)
                labels = [label]
            else:
                image, labels = render_image(rng)
            name = f"{split}_{index:05d}.jpg"
            path = temporary / "images" / name
            if not cv2.imwrite(str(path), image, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]):
                raise OSError(f"could not write {path}")
            lines.append(f"# {name}")
            lines += [label.line() for label in labels]
        (temporary / "label.txt").write_text("\n".join(lines) + "\n", encoding="ascii")
        target = folder / split
        if target.exists():
            shutil.rmtree(target)
        temporary.replace(target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


class _Parser(argparse.ArgumentParser):
    """Refuses bad arguments in one sentence, without the usage text."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"make_calib_faces: {message}.\n")


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = _Parser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument(
        "--output",
        required=True,
        type=Path,
        metavar="DIR",
        help="folder that receives train/ and val/",
    )
    parser.add_argument(
        "--train",
        type=int,
        default=140,
        metavar="N",
        help="images in train/ (default %(default)s; 0 skips the split)",
    )
    parser.add_argument(
        "--val",
        type=int,
        default=60,
        metavar="M",
        help="images in val/ (default %(default)s; 0 skips the split)",
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=20240501,
        metavar="S",
        help="non-negative seed (default %(default)s)",
    )
    parser.add_argument(
        "--closeups",
        action="store_true",
        help="one large head an image at any pose (training data for the examples), not scenes",
    )
    parser.add_argument(
        "--force", action="store_true", help="replace train/ and val/ in a folder that is not empty"
    )
    return parser.parse_args(argv)


def _problem(args: argparse.Namespace) -> str | None:
    """One sentence about the first bad argument, or None."""
    for name in SPLITS:
        count = getattr(args, name)
        if not 0 <= count <= LARGEST_COUNT:
            return f"--{name} must be between 0 and {LARGEST_COUNT}, not {count}."
    if args.train + args.val == 0:
        return "--train and --val are both 0, so there is nothing to render."
    if args.seed < 0:
        return f"--seed must not be negative, but is {args.seed}."
    if args.output.exists() and not args.output.is_dir():
        return f"--output {args.output} exists and is not a folder."
    if args.output.is_dir() and not args.force and any(args.output.iterdir()):
        return f"--output {args.output} is not empty; use --force to replace its splits."
    return None


def main(argv: list[str] | None = None) -> int:
    """Run the tool; returns the exit code (0 done, 2 bad argument, 1 could not write)."""
    args = _parse(argv)
    problem = _problem(args)
    if problem is not None:
        print(f"make_calib_faces: {problem}", file=sys.stderr)
        return 2
    cv2.setNumThreads(1)
    try:
        for split in SPLITS:
            count = getattr(args, split)
            if count:
                write_split(args.output, split, count, args.seed, args.closeups)
    except OSError as error:
        print(f"make_calib_faces: could not write the images: {error}.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
