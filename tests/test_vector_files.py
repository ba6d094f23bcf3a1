"""Vectors' files that somebody made to do harm: a small file that claims much, and tensors of kinds that no vector is."""

import io
import pickle
import resource
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jaxtyping
import numpy as np
import pytest
import torch
from safetensors.torch import save

from steerlens import SteeringVector, VectorError, load_vector
from steerlens.models.torch_files import read_tensor
from steerlens.vectors.files import FORMAT

D = 8


@pytest.fixture(autouse=True)
def unchecked() -> Iterator[None]:
    """Without the tests' own shape checks, which would speak before the error that a user sees."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def little_memory() -> Iterator[None]:
    """An allocation of over 2 GB fails in this test."""
    with open("/proc/self/statm") as file:
        now = int(file.read().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (now + 2 * 10**9, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def refused(path: Path, says: str = ".") -> None:
    with pytest.raises(VectorError, match=says) as told:
        load_vector(path, layer=1)
    assert path.name in str(told.value)
    assert len(str(told.value)) < 700


def saved(thing: Any, path: Path, **options: Any) -> bytes:
    torch.save(thing, path, **options)
    return path.read_bytes()


def repacked(data: bytes, path: Path, compression: int = zipfile.ZIP_STORED, **replaced: bytes) -> Path:
    """An archive again, with entries (by the end of their names) replaced."""
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(path, "w", compression) as new:
        for name in old.namelist():
            new.writestr(name, replaced.get(name.rpartition("/")[2].replace(".", "_"), old.read(name)))
    return path


def test_plain_tensors_of_every_float_dtype_are_read_as_torch_reads_them(tmp_path: Path) -> None:
    whole = torch.randn(5, D, generator=torch.Generator().manual_seed(0))
    for dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16):
        for tensor in (whole[2].to(dtype), whole.to(dtype)[:, 3], torch.nn.Parameter(whole[0].to(dtype).clone())):
            path = tmp_path / "layer1.pt"
            found = read_tensor(saved(tensor, path))
            assert torch.equal(found, torch.load(path, weights_only=True).detach())
            assert found.dtype == dtype


@pytest.mark.usefixtures("little_memory")
def test_a_pt_that_claims_more_than_it_has_is_refused_before_anything_is_filled(tmp_path: Path) -> None:
    path = tmp_path / "layer1.pt"
    saved(torch.ones(1).expand(10**9), path)
    refused(path, "shape")
    saved(torch.ones(1).expand(30_000, 30_000, 30_000), path)
    refused(path, "shape")
    plain = saved(torch.ones(D), path)
    zeros = repacked(plain, path, zipfile.ZIP_DEFLATED, **{"0": bytes(2 * 10**8)})
    assert zeros.stat().st_size < 10**6
    refused(zeros, "compressed")
    pickled = zipfile.ZipFile(io.BytesIO(plain)).read("layer1/data.pkl")
    eight = b"K\x08"  # BININT1 8, of the storage's length and of the tensor's
    for claimed in (pickled.replace(eight, b"J\xff\xff\xff\x7f"), pickled.replace(eight, b"J\x00\x00\x00\x80"),
                    pickled.replace(eight, b"\x8a\x09" + b"\xff" * 8 + b"\x00"), pickled.replace(eight, b"N"),
                    pickled.replace(eight, b"\x88", 1), b"\x80\x02r\xff\xff\xff\x7f" + pickled[2:]):  # fmt: skip
        refused(repacked(plain, path, data_pkl=claimed))


@pytest.mark.filterwarnings("ignore")
def test_a_pt_of_another_kind_of_tensor_or_form_is_refused(tmp_path: Path) -> None:
    path, ones = tmp_path / "layer1.pt", torch.ones(D)
    kinds: list[Any] = [
        ones.to(torch.complex64), ones.to_sparse(), torch.ones(D, device="meta"), ones.to(torch.float8_e4m3fn),
        torch.nested.nested_tensor([ones, ones[:3]]), torch.quantize_per_tensor(ones, 0.1, 0, torch.qint8),
        ones.long(), ones.bool(), ones[0], ones[:0], ones.reshape(2, 4), ones * torch.inf, {"a": ones}, [ones], (ones, ones),
        {1, 2}, "text", None, bytearray(3), torch.nn.ParameterList([ones]), ones.numpy(),
    ]  # fmt: skip
    for kind in kinds:
        saved(kind, path)
        refused(path)
    for options in ({"pickle_protocol": 4}, {"_use_new_zipfile_serialization": False}):
        saved(ones, path, **options)
        refused(path, "can't be read as one tensor")
    path.write_bytes(pickle.dumps([1]))
    refused(path, "can't be read as one tensor")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.txt", "x")
    refused(path, "can't be read as one tensor")
    with zipfile.ZipFile(path, "w") as archive:
        for n in range(2000):
            archive.writestr(f"a/{n}", "")
    refused(path, "2000 entries")


@pytest.mark.filterwarnings("ignore")
def test_a_vector_is_never_made_of_another_kind_of_tensor() -> None:
    ones = torch.ones(D)
    for tensor in (ones.to_sparse(), torch.ones(D, device="meta"), ones.to(torch.float8_e4m3fn), ones.to(torch.complex64),
                   torch.nested.nested_tensor([ones, ones[:3]]), torch.quantize_per_tensor(ones, 0.1, 0, torch.qint8),
                   ones[:1].expand(10**10)):  # fmt: skip
        for fields in ({"tensor": tensor}, {"tensor": ones, "snapshots": {1: tensor}}):
            with pytest.raises(VectorError, match="expected"):
                SteeringVector(layer=1, **fields)
    for step in (-1, True, "1", 1.0):
        with pytest.raises(VectorError, match="snapshot"):
            SteeringVector(ones, 1, snapshots={step: ones})  # type: ignore[dict-item]


# -- GGUF -------------------------------------------------------------------------------------------------------------


def gguf_text(text: str) -> bytes:
    return struct.pack("<Q", len(text)) + text.encode()


def header(tensors: int = 1, entries: int = 1, version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, entries)


ARCH = gguf_text("general.architecture") + struct.pack("<I", 8) + gguf_text("controlvector")


def tensor_info(name: str = "direction.1", shape: tuple[int, ...] = (D,), kind: int = 0, offset: int = 0) -> bytes:
    dimensions = struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
    return gguf_text(name) + dimensions + struct.pack("<IQ", kind, offset)


def entry(kind: int, value: bytes, name: str = "x") -> bytes:
    return gguf_text(name) + struct.pack("<I", kind) + value


def test_a_gguf_is_read(tmp_path: Path) -> None:
    numbers = np.arange(D, dtype="<f4")
    for kind, stored in ((0, numbers), (1, numbers.astype("<f2")), (28, numbers.astype("<f8")),
                         (30, (numbers.view("<u4") >> 16).astype("<u2"))):  # fmt: skip
        start = header() + ARCH + tensor_info(kind=kind)
        (tmp_path / "v.gguf").write_bytes(start + bytes(-len(start) % 32) + stored.tobytes())
        assert load_vector(tmp_path / "v.gguf").tensor.tolist() == numbers.tolist()


@pytest.mark.usefixtures("little_memory")
def test_a_gguf_that_claims_more_than_it_has_is_refused_at_once(tmp_path: Path) -> None:
    path, many = tmp_path / "v.gguf", 2**40
    count = struct.pack("<Q", many)
    rest = bytes(2000)
    for content in (
        header(tensors=many) + ARCH + rest,
        header(entries=many) + ARCH + rest,
        header(entries=2) + ARCH + entry(9, struct.pack("<I", 4) + count) + rest,
        header(entries=2) + ARCH + entry(9, struct.pack("<I", 8) + count) + rest,
        header(entries=2) + ARCH + entry(9, struct.pack("<I", 9) + count) + rest,
        header(entries=2) + ARCH + entry(8, count) + rest,
        header(entries=2) + ARCH + entry(77, count) + rest,
        header(entries=2) + ARCH + ARCH + tensor_info() + rest,
        header(entries=2) + ARCH + entry(4, struct.pack("<I", 0), "general.alignment") + tensor_info() + rest,
        header(entries=2) + ARCH + entry(8, gguf_text("x"), "general.alignment") + tensor_info() + rest,
        header(tensors=2) + ARCH + tensor_info() + tensor_info() + rest,
        header(version=1) + ARCH + tensor_info() + rest,
        header() + ARCH + tensor_info(shape=(many,)) + rest,
        header() + ARCH + tensor_info(shape=(2**63, 2**63, 2**63, 2)) + rest,
        header() + ARCH + tensor_info(shape=(0,)) + rest,
        header() + ARCH + tensor_info(shape=()) + rest,
        header() + ARCH + tensor_info(shape=(1,) * 4) + rest,
        header() + ARCH + tensor_info(shape=(600,)) + rest,
        header() + ARCH + tensor_info(offset=2**63) + rest,
        header() + ARCH + tensor_info(kind=99) + rest,
        header() + ARCH + tensor_info(kind=8) + rest,  # eight numbers are no block of Q8_0
        header() + ARCH + tensor_info(name="direction.٣") + rest,
        header() + ARCH + tensor_info(name="direction.-1") + rest,
        header() + ARCH + gguf_text("direction.1") + struct.pack("<I", 2**31) + rest,
    ):  # fmt: skip
        path.write_bytes(content)
        refused(path)


# -- safetensors ------------------------------------------------------------------------------------------------------


def test_a_safetensors_file_that_claims_more_than_it_has_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "v.safetensors"
    with path.open("wb") as file:
        file.write(struct.pack("<Q", 10**8))
        file.truncate(10**8 + 100)
    refused(path, "header")
    with path.open("wb") as file:
        file.truncate(10**10)
    refused(path, "10,000 MB")
    for tensor in (torch.ones(D).to(torch.float8_e4m3fn), torch.ones(D, dtype=torch.int64), torch.ones(2**21)):
        path.write_bytes(save({"vector": tensor}, {"format": FORMAT, "record": "{}"}))
        refused(path)
    deep = '{"settings": ' + "[" * 200_000 + "]" * 200_000 + "}"
    path.write_bytes(save({"vector": torch.ones(D)}, {"format": FORMAT, "record": deep}))
    refused(path, "nested")
