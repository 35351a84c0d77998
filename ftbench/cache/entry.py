"""An entry on disk: a safetensors file whose content can be told from damage."""

from __future__ import annotations

import json
import math
import os
import secrets
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_CHUNK = 1 << 24
_LAST = "channels_last"


class DamagedError(Exception):
    """A file is no whole entry, or one of another key."""


@dataclass(frozen=True)
class Header:
    """What is known of an entry besides its tensors: its key, and what computing it took."""

    key: str
    wall: float
    cpu: float


_NOBODY = Header("0" * 64, 0.0, 0.0)  # until the entry is whole


class Writer:
    """Writes tensors of a known number of rows block by block; they are there whole or not at all.

    ``first`` is the first block: names, dtypes and shapes are those of all. What lies in memory
    channels last is read back so, since kernels differ by it.
    """

    def __init__(self, path: Path, rows: int, first: Mapping[str, Tensor]) -> None:
        self._path, self._rows = path, rows
        self._layouts = {name: _layout(tensor) for name, tensor in first.items()}
        self._tensors: dict[str, Any] = {}
        self._crcs = dict.fromkeys(sorted(first), 0)
        self._places: dict[str, int] = {}
        start = 0
        for name in sorted(first):
            stored = _stored(first[name], self._layouts[name])
            shape = [rows, *stored.shape[1:]]
            size = math.prod(shape) * stored.element_size()
            dtype = _DTYPES[stored.dtype]
            self._tensors[name] = {
                "dtype": dtype,
                "shape": shape,
                "data_offsets": [start, start + size],
            }
            self._places[name] = start
            start += size
        self._size = start
        self._partial = path.with_name(f"{path.name}.{secrets.token_hex(8)}.part")
        self._file: IO[bytes] | None = None
        self._base = 0

    @property
    def size(self) -> int:
        """How many bytes the file takes."""
        return len(self._header(_NOBODY)) + self._size

    def __enter__(self) -> Writer:
        """Begin the file; OSError where there is no room."""
        self._file = self._partial.open("wb")
        header = self._header(_NOBODY)
        self._base = len(header)
        self._file.write(header)
        return self

    def write(self, block: Mapping[str, Tensor]) -> None:
        """Write the next rows."""
        assert self._file is not None
        for name in self._crcs:
            stored = _stored(block[name], self._layouts[name]).contiguous()
            data = stored.view(torch.uint8).reshape(-1).numpy().data if stored.numel() else b""
            self._file.seek(self._base + self._places[name])
            self._file.write(data)
            self._places[name] += len(data)
            self._crcs[name] = zlib.crc32(data, self._crcs[name])

    def finish(self, header: Header) -> None:
        """Put the file in its place."""
        assert self._file is not None
        whole = self._header(header)
        assert len(whole) == self._base  # numbers of fixed width
        self._file.seek(0)
        self._file.write(whole)
        self._file.close()
        os.replace(self._partial, self._path)

    def __exit__(self, *exception: object) -> None:
        """Leave nothing half-written."""
        if self._file is not None:
            self._file.close()
        self._partial.unlink(missing_ok=True)

    def _header(self, header: Header) -> bytes:
        about = {
            "key": header.key,
            "wall": f"{header.wall:020.6f}",
            "cpu": f"{header.cpu:020.6f}",
            "crc": " ".join(f"{value:08x}" for value in self._crcs.values()),
            "layouts": json.dumps(self._layouts),
        }
        text = json.dumps({"__metadata__": about, **self._tensors}).encode()
        text += b" " * (-len(text) % 8)
        return len(text).to_bytes(8, "little") + text


def read(path: Path, key: str, *, mapped: bool) -> tuple[dict[str, Tensor], Header]:
    """Return an entry's tensors; FileNotFoundError where there is none, DamagedError for another.

    ``mapped`` leaves them on disk, where they are read as they are used.
    """
    import safetensors
    from safetensors.torch import load, load_file

    try:
        if mapped:
            tensors = load_file(path)
            with safetensors.safe_open(path, framework="pt") as file:
                about = dict(file.metadata() or {})
        else:
            data = path.read_bytes()
            tensors, about = load(data), _metadata(data)
    except FileNotFoundError:
        raise
    except Exception as error:  # whatever damage makes the reader raise
        raise DamagedError(str(error)) from error
    try:
        header = Header(about["key"], float(about["wall"]), float(about["cpu"]))
        layouts, crcs = json.loads(about["layouts"]), about["crc"].split()
    except (KeyError, ValueError) as error:
        raise DamagedError("it has no header of ours") from error
    if header.key != key:
        raise DamagedError("it is another entry")
    for name, expected in zip(sorted(tensors), crcs, strict=True):
        if f"{_crc(tensors[name]):08x}" != expected:
            raise DamagedError(f"'{name}' is damaged")
    if not mapped:  # in the file's bytes they may lie at odd addresses
        tensors = {name: value.clone() for name, value in tensors.items()}
    return {name: _restored(value, layouts[name]) for name, value in tensors.items()}, header


def _metadata(data: bytes) -> dict[str, str]:
    size = int.from_bytes(data[:8], "little")
    return dict(json.loads(data[8 : 8 + size]).get("__metadata__", {}))


def _crc(tensor: Tensor) -> int:
    found = 0
    for chunk in _chunks(tensor):
        found = zlib.crc32(chunk, found)
    return found


def _chunks(tensor: Tensor) -> Iterator[memoryview]:
    data = tensor.view(torch.uint8).reshape(-1).numpy().data if tensor.numel() else memoryview(b"")
    for start in range(0, len(data), _CHUNK):
        yield data[start : start + _CHUNK]


def _layout(tensor: Tensor) -> str:
    """Return how a tensor (N, C, H, W) lies in memory, ``""`` for the usual way."""
    if tensor.dim() != 4 or tensor.is_contiguous():
        return ""
    return _LAST if tensor.is_contiguous(memory_format=torch.channels_last) else ""


def _stored(tensor: Tensor, layout: str) -> Tensor:
    found = tensor.detach().cpu()
    return found.permute(0, 2, 3, 1) if layout == _LAST else found


def _restored(tensor: Tensor, layout: str) -> Tensor:
    return tensor.permute(0, 3, 1, 2) if layout == _LAST else tensor
