"""Reading untrusted ``.npy`` bytes: float32, C order, exactly as long as announced."""

from __future__ import annotations

import io
import tokenize
from typing import TYPE_CHECKING

from .errors import UNAVAILABLE, VERIFICATION, RunnerError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def load_float32(data: bytes, name: str) -> NDArray[np.float32]:
    """Parse ``.npy`` bytes (format 1.0) without ever unpickling.

    Returns:
        An array of the stored shape; read-only, since it is a view of ``data``.

    Raises:
        RunnerError: another format, type or order, or a length that does not fit the shape.
    """
    try:
        import numpy as np
    except ImportError as error:
        raise RunnerError(
            UNAVAILABLE, "NumPy is not installed here (python -m pip install numpy)"
        ) from error

    stream = io.BytesIO(data)
    try:
        # NumPy tries a header that does not parse once more, by the tokenizer.
        if np.lib.format.read_magic(stream) != (1, 0):
            raise ValueError("another format version")
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
        if fortran or dtype != np.dtype("<f4"):
            raise ValueError(f"not C-ordered float32 but {dtype}")
        return np.frombuffer(data, np.dtype("<f4"), offset=stream.tell()).reshape(shape)
    except (ValueError, SyntaxError, TypeError, EOFError, tokenize.TokenError) as error:
        raise RunnerError(VERIFICATION, f"'{name}' is not a readable array ({error})") from error
