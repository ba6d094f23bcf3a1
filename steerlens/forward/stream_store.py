"""Where the pairs' residual streams wait between reading and use: in memory, in 16 bits, on disk, or nowhere."""

import logging
import math
import os
import shutil
import tempfile
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import psutil  # comes with transformer-lens (through accelerate)
import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.checks.values import checked_choice
from steerlens.errors import TrainingError

log = logging.getLogger(__name__)
Cache = Literal["auto", "ram", "fp16", "disk", "recompute"]
SHARE_OF_FREE_MEMORY = 0.5


def check_cache(cache: object) -> None:
    """Raise TrainingError unless `cache` is one of the known kinds."""
    checked_choice("cache", cache, get_args(Cache), error=TrainingError)


class ResidStore:
    """Tensors by row, (tokens, d_model) each; the whole is laid out once, so that nothing grows.

    Args:
        tokens: how many tokens each row has.
        d_model, dtype: of the residual stream.
        cache: "ram" keeps the model's dtype, "fp16" halves a float32 model's memory (gradients keep about 5e-4 of
            precision), "disk" maps a temporary file in TMPDIR, "recompute" keeps nothing; "auto" takes "ram", and "disk" where
            that would fill over half of the free memory.
        share: of that half, where several stores are filled together.
        pin: keep "ram" and "fp16" where a GPU can fetch them while it computes.

    Raises:
        TrainingError: the disk has no room for the whole, or can't be written.
    """

    def __init__(
        self,
        tokens: Mapping[int, int],
        d_model: int,
        dtype: torch.dtype,
        cache: Cache = "auto",
        share: float = 1.0,
        pin: bool = False,
    ) -> None:
        check_cache(cache)
        self.tokens, self.d_model = tokens, d_model
        self.bytes = sum(tokens.values()) * d_model * dtype.itemsize
        if cache == "auto":
            cache = "disk" if self.bytes > share * SHARE_OF_FREE_MEMORY * psutil.virtual_memory().available else "ram"
        self.kind = cache
        log.info("%d pairs' residual streams, %.2f GB: %s", len(tokens), self.bytes / 1e9, cache)
        kept = torch.float16 if cache == "fp16" else dtype
        self._starts: dict[int, int] = {}
        start = 0
        for row, n in tokens.items():
            self._starts[row], start = start, start + n
        size = start * d_model
        if cache == "disk":
            folder = _reserved(size * kept.itemsize)
            weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
            path = str(folder / "resid")
            self._all = torch.from_file(path, shared=True, size=size, dtype=kept, device="cpu").view(start, d_model)
        else:
            self._all = torch.empty(
                0 if cache == "recompute" else start, d_model, dtype=kept, pin_memory=pin, device="cpu"
            )

    def put(self, row: int, resid: Float[Tensor, "token d_model"]) -> None:
        """Keep a row.

        Raises:
            TrainingError: 16 bits can't hold its numbers.
        """
        if self.kind == "recompute":
            return
        place = self._all[self._starts[row] :][: self.tokens[row]]
        place.copy_(resid)
        if self.kind == "fp16" and not math.isfinite(float(place.float().abs().max())):
            raise TrainingError("the residual stream exceeds fp16's 65504 at this layer: cache='ram' or 'disk'")

    def get(self, row: int) -> Float[Tensor, "token d_model"]:
        """A row as it was put, up to the kept precision."""
        return self._all[self._starts[row] :][: self.tokens[row]]


def _reserved(size: int) -> Path:
    """A new folder with a file `resid` of that many bytes, all of them on the disk.

    A file that is mapped before it is written has holes, and where the disk is full by then, the system ends the process.
    """
    folder = None
    try:
        folder = Path(tempfile.mkdtemp(prefix="steerlens-"))
        free = shutil.disk_usage(folder).free
        if size > free:
            raise TrainingError(_no_room(size, folder.parent, f"{free / 1e9:.2f} GB are free"))
        with (folder / "resid").open("wb") as file:
            _fill(file, size)
    except BaseException as error:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, OSError):
            where = Path(tempfile.gettempdir()) if folder is None else folder.parent
            raise TrainingError(_no_room(size, where, error.strerror or str(error))) from error
        raise
    return folder


def _fill(file: Any, size: int) -> None:
    if hasattr(os, "posix_fallocate"):
        if size:
            os.posix_fallocate(file.fileno(), 0, size)
        return
    zeros = bytes(2**20)  # where the system reserves nothing, the bytes are written
    for start in range(0, size, len(zeros)):
        file.write(zeros[: size - start])
    file.flush()
    os.fsync(file.fileno())


def _no_room(size: int, folder: Path, why: str) -> str:
    return (
        f"cache='disk' needs {size / 1e9:.2f} GB in {folder} for the pairs' residual streams: {why}. Set TMPDIR to a folder with "
        "room, or use cache='fp16', which takes half of a float32 model's memory, or cache='recompute', which takes none"
    )
