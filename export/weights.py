"""Read the network's weights from any file Keras has written them to, and write them.

Three layouts, told apart by what is in the file and not by its name:

* **legacy HDF5** (``.h5`` of Keras 2 and 3, ``.weights.h5`` up to Keras 2.11): the attribute
  ``layer_names`` lists the layers, each layer's ``weight_names`` its tensors, such as
  ``separable_conv2d_12/depthwise_kernel:0``. ``save`` puts all that into the group
  ``model_weights``, ``save_weights`` into the root.
* **current HDF5** (``.weights.h5`` since Keras 2.12): ``layers/separable_conv2d_3/vars/0``. The
  groups bear the class's name and the layer's rank in its class, whatever the layer is called;
  the variables are numbered in the order of creation. Keras 2.12 and 2.13 say
  ``_layer_checkpoint_dependencies`` for ``layers``.
* **zip archive** (``.keras``): the current HDF5 as ``model.weights.h5``. Its config.json is not
  read: nothing in a file is ever deserialised into objects.

Names come from someone else's training and mean nothing here. The file's nth layer of a kind is
the network's nth of that kind, a tensor's role says which one it is, and shapes are checked.
Optimizer state, random generators and a Normalization layer's statistics are passed over.
"""

from __future__ import annotations

import hashlib
import io
import re
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

import h5py
import keras
import numpy as np
import numpy.typing as npt

from export.architecture import build_model
from gateway.contract import INPUT_SIZE

SUFFIXES: Final = (".keras", ".weights.h5", ".h5")
"""What `save_weights` can write, by the target's suffix; the longer of two that fit is first."""


class WeightsError(ValueError):
    """A file does not hold this network's weights, or cannot be written as asked."""


class _Kind(NamedTuple):
    """One kind of layer that has weights."""

    title: str
    layer: type[Any]
    group: str
    """The current layout's name for it, less the number."""
    roles: tuple[str, ...]
    """Its variables in the order Keras numbers them, by the name of the layer's attribute."""


_KINDS: Final = (
    _Kind(
        "separable convolution",
        keras.layers.SeparableConv2D,
        "separable_conv2d",
        ("depthwise_kernel", "pointwise_kernel", "bias"),
    ),
    _Kind(
        "batch normalisation",
        keras.layers.BatchNormalization,
        "batch_normalization",
        ("gamma", "beta", "moving_mean", "moving_variance"),
    ),
    _Kind("dense", keras.layers.Dense, "dense", ("kernel", "bias")),
)
_STATISTICS = ("mean", "variance", "count")
"""A Normalization layer's. They are no weights: the network scales by constants."""

_ROLES: Final = {kind.group: kind.roles for kind in _KINDS} | {"normalization": _STATISTICS}
"""The current layout's group to the roles of its numbered variables."""

_HDF5 = b"\x89HDF\r\n\x1a\n"
_ZIP = b"PK\x03\x04"
_ARCHIVED = "model.weights.h5"
_DAMAGE = (OSError, KeyError, RuntimeError, zipfile.BadZipFile, zlib.error)
"""What h5py and zipfile raise when a file is not what its first bytes promise."""


class _Stored(NamedTuple):
    """One layer's weights as a file holds them: datasets by role, not read yet."""

    name: str
    tensors: dict[str, h5py.Dataset]


def load_weights(path: Path, input_size: int = INPUT_SIZE) -> keras.Model:
    """Build the network with the weights in a file.

    Raises:
        WeightsError: as `read_weights`.
    """
    model = build_model(input_size)
    read_weights(model, path)
    return model


def read_weights(model: keras.Model, path: Path) -> None:
    """Give a network of `build_model` the weights in a file, as float32.

    Raises:
        WeightsError: the file is missing, damaged or in no layout known here; it has another
            number of layers; a tensor has another shape, is not of floating point or has a
            value that is not finite. The model is then as it was.
    """
    with _opened(path) as file:
        values = [
            (getattr(layer, role), _value(stored, role, layer))
            for layer, stored in _matched(model, _stored_layers(file))
            for role in stored.tensors
        ]
    for variable, value in values:
        variable.assign(value)


def save_weights(model: keras.Model, path: Path) -> None:
    """Write a model in the format its path's suffix names, replacing what is there at once.

    Raises:
        WeightsError: the suffix is none of ``SUFFIXES``.
    """
    suffix = _suffix(path)
    # in the same folder: a rename is atomic only within one file system
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".weights-") as folder:
        aside = Path(folder) / path.name
        write = model.save_weights if suffix == ".weights.h5" else model.save
        write(aside)
        aside.replace(path)


def convert(source: Path, target: Path) -> None:
    """Write the weights of one file to another, in the format of the target's suffix.

    Raises:
        WeightsError: as `read_weights` and `save_weights`.
    """
    _suffix(target)  # refuse before the work, not after
    save_weights(load_weights(source), target)


def sha256(path: Path) -> str:
    """The file's SHA-256 digest in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _suffix(path: Path) -> str:
    for suffix in SUFFIXES:
        if path.name.endswith(suffix):
            return suffix
    raise WeightsError(f"{path}: weights are written as {', '.join(SUFFIXES)}")


@contextmanager
def _opened(path: Path) -> Iterator[h5py.File]:
    """The HDF5 file at a path or in the archive there; every error names the path."""
    try:
        with h5py.File(_hdf5(path), "r") as file:
            yield file
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from None
    except _DAMAGE as error:
        raise WeightsError(f"{path}: damaged or cut short ({error})") from error


def _hdf5(path: Path) -> Path | io.BytesIO:
    if not path.is_file():
        raise WeightsError("there is no such file")
    with path.open("rb") as file:
        magic = file.read(len(_HDF5))
    if magic == _HDF5:
        return path
    if not magic.startswith(_ZIP):
        raise WeightsError("neither HDF5 nor a Keras archive")
    with zipfile.ZipFile(path) as archive:
        if _ARCHIVED not in archive.namelist():
            raise WeightsError(f"a zip archive without {_ARCHIVED}")
        return io.BytesIO(archive.read(_ARCHIVED))  # whole: that checks its checksum


def _stored_layers(file: h5py.File) -> list[_Stored]:
    """The layers with weights, those of one kind in the network's order."""
    root = file.get("model_weights", file)
    legacy = _names(root, "layer_names")
    layers = list(_legacy_layers(root, legacy) if legacy else _current_layers(file))
    if not layers:
        raise WeightsError("no layer's weights in it")
    return layers


def _legacy_layers(root: h5py.Group, names: Iterable[str]) -> Iterator[_Stored]:
    for name in names:
        owners: dict[str, dict[str, h5py.Dataset]] = {}  # more than one in a nested model
        for weight in _names(root[name], "weight_names"):
            owner, _, role = weight.rpartition("/")
            owners.setdefault(owner, {})[role.partition(":")[0]] = root[name][weight]
        for owner, tensors in owners.items():
            yield _Stored(owner.rpartition("/")[2] or name, tensors)


def _names(group: h5py.Group, attribute: str) -> list[str]:
    """A list Keras keeps in an attribute, or in several, numbered, where HDF5's 64 KB are short."""
    parts = [part for part in group.attrs if re.fullmatch(rf"{attribute}\d*", part)]
    names = [name for part in sorted(parts, key=_natural) for name in group.attrs[part]]
    return [name.decode() if isinstance(name, bytes) else str(name) for name in names]


_VARIABLE = re.compile(
    r"(?P<container>(?:.*/)?(?:_?layers|_layer_checkpoint_dependencies))"
    r"/(?P<layer>(?P<group>[^/]+?)(?:_\d+)?)/vars/(?P<number>\d+)"
)


def _current_layers(file: h5py.File) -> Iterator[_Stored]:
    layers: dict[tuple[str, str], dict[str, h5py.Dataset]] = {}
    containers: dict[str, str] = {}

    def collect(path: str, item: h5py.Dataset | h5py.Group) -> None:
        match = _VARIABLE.fullmatch(path)
        if match is None or not isinstance(item, h5py.Dataset):
            return
        container, layer, group, number = match.groups()
        if group in _ROLES and containers.setdefault(group, container) != container:
            raise WeightsError(  # nothing in the file tells which come first
                f"{group} layers in two places, {containers[group]} and {container}: "
                "save the inner model by itself"
            )
        roles = _ROLES.get(group, ())
        role = roles[int(number)] if int(number) < len(roles) else number
        layers.setdefault((container, layer), {})[role] = item

    file.visititems(collect)
    for container, layer in sorted(layers, key=lambda place: _natural(place[1])):
        yield _Stored(layer, layers[container, layer])


def _natural(name: str) -> list[str | int]:
    """Sorts dense_10 after dense_9."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]


def _matched(
    model: keras.Model, layers: Iterable[_Stored]
) -> Iterator[tuple[keras.Layer, _Stored]]:
    """Each layer of the network with the file's of the same kind and rank."""
    ours = [
        (layer, kind) for layer in model.layers for kind in _KINDS if isinstance(layer, kind.layer)
    ]
    found: dict[_Kind, list[_Stored]] = {kind: [] for kind in _KINDS}
    for stored in layers:
        if kind := _kind(stored):
            found[kind].append(stored)
    for kind, theirs in found.items():
        _check_count(kind, theirs, expected=[other for _, other in ours].count(kind))
    queues = {kind: iter(theirs) for kind, theirs in found.items()}
    for layer, kind in ours:
        yield layer, next(queues[kind])


def _check_count(kind: _Kind, layers: list[_Stored], expected: int) -> None:
    if len(layers) != expected:
        names = ", ".join(stored.name for stored in layers) or "none"
        raise WeightsError(
            f"{len(layers)} {kind.title} layers where the network has {expected}: {names}"
        )


def _kind(stored: _Stored) -> _Kind | None:
    """The layer's kind; None for what is not the network's to load, such as a random generator."""
    roles = set(stored.tensors)
    for kind in _KINDS:
        if roles == set(kind.roles):
            return kind
    learnt = any(tensor.dtype.kind in "fV" for tensor in stored.tensors.values())
    if not learnt or roles == set(_STATISTICS):
        return None
    tensors = ", ".join(f"{role} {tensor.shape}" for role, tensor in stored.tensors.items())
    raise WeightsError(f"layer {stored.name!r} is none of this network's: it has {tensors}")


def _value(stored: _Stored, role: str, layer: keras.Layer) -> npt.NDArray[np.float32]:
    """One tensor, checked. The shape comes first: a dataset can declare more than memory holds."""
    dataset = stored.tensors[role]
    where = f"layer {stored.name!r} (the network's {layer.name}), {role}"
    expected = tuple(getattr(layer, role).shape)
    if dataset.shape != expected:
        raise WeightsError(f"{where}: shape {dataset.shape}, the network's is {expected}")
    value = _float32(dataset)
    if value is None:
        raise WeightsError(f"{where}: {dataset.dtype} is not a floating-point type")
    if not np.isfinite(value).all():
        raise WeightsError(f"{where}: values that are not finite")
    return value


def _float32(dataset: h5py.Dataset) -> npt.NDArray[np.float32] | None:
    stored: npt.NDArray[Any] = dataset[()]
    if stored.dtype == "V2":  # bfloat16, which HDF5 does not know: the upper half of a float32
        upper = stored.view(np.uint16).astype(np.uint32)
        return (upper << 16).view(np.float32)
    if stored.dtype.kind != "f":
        return None
    with np.errstate(over="ignore"):  # too large becomes inf, which is refused by name
        return np.asarray(stored, dtype=np.float32)
