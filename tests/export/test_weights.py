"""Weight files of every layout load tensor for tensor; every other file is refused by name."""

from __future__ import annotations

import hashlib
import io
import itertools
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import keras
import numpy as np
import numpy.typing as npt
import pytest
from keras import layers

from export.architecture import CONVOLUTIONS, WEIGHT_TENSORS, build_model
from export.weights import WeightsError, convert, load_weights, read_weights, save_weights, sha256

SIZE = 64  # the smallest window the network takes, in round numbers; weights do not depend on it
GROUPS = {
    layers.SeparableConv2D: "separable_conv2d",
    layers.BatchNormalization: "batch_normalization",
    layers.Dense: "dense",
}
ROLES = {
    "separable_conv2d": ("depthwise_kernel", "pointwise_kernel", "bias"),
    "batch_normalization": ("gamma", "beta", "moving_mean", "moving_variance"),
    "dense": ("kernel", "bias"),
}

Tensors = dict[str, npt.NDArray[np.float32]]


def randomise(model: keras.Model) -> keras.Model:
    """Give every tensor values of its own, so that no two can change places unnoticed."""
    rng = np.random.default_rng(7)
    model.set_weights([rng.uniform(0.1, 1, w.shape).astype(np.float32) for w in model.weights])
    return model


@pytest.fixture(scope="module")
def network() -> keras.Model:
    return randomise(build_model(SIZE))


@pytest.fixture(scope="module")
def reused() -> keras.Model:
    return build_model(SIZE)


@pytest.fixture
def blank(reused: keras.Model) -> keras.Model:
    """A network of nothing but zeros."""
    for variable in reused.weights:
        variable.assign(np.zeros(variable.shape, np.float32))
    return reused


def weighted(model: keras.Model) -> Iterator[keras.Layer]:
    """The layers with weights, in order, those of nested models too."""
    for layer in model.layers:
        if type(layer) in GROUPS:
            yield layer
        elif isinstance(layer, keras.Model):
            yield from weighted(layer)


def assert_same(
    found: keras.Model, expected: keras.Model, dtype: npt.DTypeLike = np.float32
) -> None:
    pairs = list(zip(found.get_weights(), expected.get_weights(), strict=True))
    assert len(pairs) == WEIGHT_TENSORS
    for value, original in pairs:
        assert value.dtype == np.float32
        np.testing.assert_array_equal(value, original.astype(dtype).astype(np.float32))


# ---- files Keras 3 writes, of models trained by someone else


def convolutions() -> list[keras.Layer]:
    found: list[keras.Layer] = []
    for number, c in enumerate(CONVOLUTIONS):
        # every other one named by hand: Keras numbers the rest on their own
        name = f"by_hand_{number}_{id(found)}" if number % 2 else None
        found += [
            layers.SeparableConv2D(
                c.filters, c.kernel, strides=c.stride, padding=c.padding, name=name
            ),
            layers.BatchNormalization(),
        ]
        found += [layers.MaxPooling2D()] if c.pooled else []
    return found


def head() -> list[keras.Layer]:
    hidden = [layer for _ in range(2) for layer in (layers.Dense(1024), layers.Dropout(0.5))]
    return [layers.GlobalAveragePooling2D(), *hidden, layers.Dense(4, activation="softmax")]


def sequential() -> keras.Model:
    before = [layers.RandomFlip(), layers.Rescaling(1 / 255)]
    return keras.Sequential([keras.Input((SIZE, SIZE, 3)), *before, *convolutions(), *head()])


def functional() -> keras.Model:
    x = images = keras.Input((SIZE, SIZE, 3))
    for layer in [*convolutions(), *head()]:
        x = layer(x)
    return keras.Model(images, x)


def nested() -> keras.Model:
    inner = keras.Sequential(convolutions())
    return keras.Sequential([keras.Input((SIZE, SIZE, 3)), inner, *head()])


def normalised() -> keras.Model:
    scale = layers.Normalization()
    scale.adapt(np.random.default_rng(0).uniform(0, 255, (4, 3)))
    return keras.Sequential([keras.Input((SIZE, SIZE, 3)), scale, *convolutions(), *head()])


@pytest.fixture(scope="module", params=[sequential, functional, nested, normalised])
def foreign(request: pytest.FixtureRequest, network: keras.Model) -> keras.Model:
    model = request.param()
    for layer, mine in zip(weighted(model), weighted(network), strict=True):
        layer.set_weights(mine.get_weights())
    model.compile("adam", "categorical_crossentropy")
    model.optimizer.build(model.trainable_variables)
    return model


@pytest.mark.parametrize("name", ["model.keras", "some.weights.h5", "model.h5"])
def test_keras_3(
    name: str, foreign: keras.Model, network: keras.Model, blank: keras.Model, tmp_path: Path
) -> None:
    """What Keras 3 writes loads: Sequential or functional or nested, any names, any scaling."""
    path = tmp_path / name
    write = foreign.save_weights if ".weights." in name else foreign.save
    write(path)
    read_weights(blank, path)
    assert_same(blank, network)


def test_content_decides(network: keras.Model, blank: keras.Model, tmp_path: Path) -> None:
    """The layout is told by what is in the file, not by its suffix."""
    path = tmp_path / "weights.bin"
    save_weights(network, tmp_path / "a.keras")
    (tmp_path / "a.keras").rename(path)
    read_weights(blank, path)
    assert_same(blank, network)


# ---- files Keras 2 wrote, made by hand


def tensors_of(model: keras.Model) -> Iterator[tuple[str, Tensors]]:
    """Each layer's class name in snake case and its tensors by role, in order."""
    for layer in weighted(model):
        group = GROUPS[type(layer)]
        yield group, {role: getattr(layer, role).numpy() for role in ROLES[group]}


def write_legacy(root: h5py.Group, model: keras.Model) -> None:
    """As Keras 2.11 does: bytes in the attributes, groups by name, numbers from where they stood.

    The numbers run from 8, so that the alphabet puts the third before the first.
    """
    root.attrs["backend"] = b"tensorflow"
    root.attrs["keras_version"] = b"2.11.0"
    numbers = {group: itertools.count(8) for group in ROLES}
    named = [(f"{group}_{next(numbers[group])}", tensors) for group, tensors in tensors_of(model)]
    ordered: list[tuple[str, Tensors]] = [("rescaling_3", {}), *named[:-1], ("dropout_5", {})]
    ordered.append(named[-1])
    root.attrs["layer_names"] = [name.encode() for name, _ in ordered]
    for name, tensors in sorted(ordered, key=lambda layer: layer[0]):
        group = root.create_group(name)
        group.attrs["weight_names"] = [f"{name}/{role}:0".encode() for role in tensors]
        for role, value in tensors.items():
            group[f"{name}/{role}:0"] = value
    root.create_group("top_level_model_weights").attrs["weight_names"] = []


def legacy_weights(path: Path, model: keras.Model) -> None:
    with h5py.File(path, "w") as file:
        write_legacy(file, model)


def legacy_model(path: Path, model: keras.Model) -> None:
    with h5py.File(path, "w") as file:
        file.attrs["keras_version"] = b"2.11.0"
        file.attrs["model_config"] = b"{}"
        write_legacy(file.create_group("model_weights"), model)
        optimizer = file.create_group("optimizer_weights")
        optimizer.attrs["weight_names"] = [b"Adam/iter:0"]
        optimizer["Adam/iter:0"] = 3


def legacy_long(path: Path, model: keras.Model) -> None:
    with h5py.File(path, "w") as file:
        write_legacy(file, model)
        names = file.attrs["layer_names"]
        del file.attrs["layer_names"]
        for part in range(len(names)):  # one each: more than ten parts
            file.attrs[f"layer_names{part}"] = names[part : part + 1]


def write_current(
    file: h5py.File,
    model: keras.Model,
    container: str = "layers",
    first: int = 0,
    dtype: npt.DTypeLike = np.float32,
) -> None:
    """As Keras 2.12 to 2.15 and Keras 3 do, less the attributes some of them add."""
    numbers = {group: itertools.count(first) for group in ROLES}
    file.create_group("optimizer/vars")["0"] = 3
    file.create_group(f"{container}/dropout/seed_generator/vars")["0"] = np.zeros(2, np.uint32)
    for group, tensors in tensors_of(model):
        number = next(numbers[group])
        name = f"{group}_{number}" if number else group
        for index, value in enumerate(tensors.values()):
            file[f"{container}/{name}/vars/{index}"] = value.astype(dtype)


def current_weights(path: Path, model: keras.Model) -> None:
    with h5py.File(path, "w") as file:
        write_current(file, model)


def current_numbered(path: Path, model: keras.Model) -> None:
    with h5py.File(path, "w") as file:
        write_current(file, model, first=5)  # past 9, where the alphabet goes wrong


def dependencies(path: Path, model: keras.Model) -> None:
    with h5py.File(path, "w") as file:
        write_current(file, model, "_layer_checkpoint_dependencies")


def archive(path: Path, model: keras.Model) -> None:
    held = io.BytesIO()
    with h5py.File(held, "w") as file:
        write_current(file, model, "_layer_checkpoint_dependencies")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target:
        target.writestr("metadata.json", '{"keras_version": "2.13.1"}')
        target.writestr("config.json", "not read")
        target.writestr("model.weights.h5", held.getvalue())


@pytest.mark.parametrize(
    "write",
    [
        legacy_weights,
        legacy_model,
        legacy_long,
        current_weights,
        current_numbered,
        dependencies,
        archive,
    ],
)
def test_keras_2(
    write: Callable[[Path, keras.Model], None],
    network: keras.Model,
    blank: keras.Model,
    tmp_path: Path,
) -> None:
    """What Keras 2 wrote loads, number 9 before number 10."""
    write(tmp_path / "weights", network)
    read_weights(blank, tmp_path / "weights")
    assert_same(blank, network)


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_other_precision(
    dtype: str, network: keras.Model, blank: keras.Model, tmp_path: Path
) -> None:
    """Half and double precision load as float32."""
    with h5py.File(tmp_path / "w.h5", "w") as file:
        write_current(file, network, dtype=dtype)
    read_weights(blank, tmp_path / "w.h5")
    assert_same(blank, network, dtype)


def test_bfloat16(blank: keras.Model, tmp_path: Path) -> None:
    """bfloat16, which Keras stores as opaque bytes, loads as the float32 of the same value."""
    keras.config.set_dtype_policy("bfloat16")
    try:
        brain = randomise(build_model(SIZE))
        brain.layers[-1].dtype_policy = keras.DTypePolicy("bfloat16")
    finally:
        keras.config.set_dtype_policy("float32")
    brain.save_weights(tmp_path / "b.weights.h5")
    with h5py.File(tmp_path / "b.weights.h5") as file:
        assert file["layers/dense/vars/0"].dtype == "V2"
    read_weights(blank, tmp_path / "b.weights.h5")
    for found, expected in zip(blank.weights, brain.weights, strict=True):
        np.testing.assert_array_equal(found, keras.ops.cast(expected, "float32"))


# ---- writing


def test_round_trip(network: keras.Model, tmp_path: Path) -> None:
    """From each format to the next and back, no bit changes, and nothing else is left there."""
    names = ["a.keras", "b.h5", "c.weights.h5", "d.keras"]
    save_weights(network, tmp_path / names[0])
    for source, target in itertools.pairwise(names):
        convert(tmp_path / source, tmp_path / target)
    assert_same(load_weights(tmp_path / "d.keras", SIZE), network)
    assert sorted(path.name for path in tmp_path.iterdir()) == names


def test_keras_reads_what_is_written(network: keras.Model, tmp_path: Path) -> None:
    """The files are ordinary ones: Keras itself loads them."""
    for name in ("w.keras", "w.h5"):
        save_weights(network, tmp_path / name)
        assert_same(keras.models.load_model(tmp_path / name, compile=False), network)


def test_target_suffix(network: keras.Model, tmp_path: Path) -> None:
    """An unknown suffix is refused with those that are known, before the source is opened."""
    message = r"w\.onnx: weights are written as \.keras, \.weights\.h5, \.h5"
    with pytest.raises(WeightsError, match=message):
        save_weights(network, tmp_path / "w.onnx")
    with pytest.raises(WeightsError, match=message):
        convert(tmp_path / "missing.h5", tmp_path / "w.onnx")
    assert not list(tmp_path.iterdir())


def test_failed_write(network: keras.Model, tmp_path: Path) -> None:
    """A write that fails leaves the file that was there, and nothing beside it."""
    target = tmp_path / "w.keras"
    target.mkdir()  # a folder is in the way: the rename fails
    (target / "old").touch()
    with pytest.raises(OSError, match=r"w\.keras"):
        save_weights(network, target)
    assert [path.name for path in tmp_path.rglob("*")] == ["w.keras", "old"]


def test_sha256(tmp_path: Path) -> None:
    """The digest is the one sha256sum prints."""
    (tmp_path / "f").write_bytes(b"abc")
    assert sha256(tmp_path / "f") == hashlib.sha256(b"abc").hexdigest()


# ---- refusals


@pytest.fixture
def current(network: keras.Model, tmp_path: Path) -> Iterator[h5py.File]:
    with h5py.File(tmp_path / "current.h5", "w") as file:
        write_current(file, network)
        yield file


@pytest.fixture
def legacy(network: keras.Model, tmp_path: Path) -> Iterator[h5py.File]:
    with h5py.File(tmp_path / "legacy.h5", "w") as file:
        write_legacy(file, network)
        yield file


def put(group: h5py.Group, name: str, value: npt.NDArray[np.generic]) -> None:
    del group[name]
    group[name] = value


def refusal(file: h5py.File, model: keras.Model) -> str:
    """Load what is in the file; it must be refused with its path, and the model left alone."""
    path = Path(file.filename)
    file.close()
    before = model.get_weights()
    with pytest.raises(WeightsError) as caught:
        read_weights(model, path)
    for value, original in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(value, original)
    start, _, message = str(caught.value).partition(": ")
    assert start == str(path)
    return message


def test_shape_current(current: h5py.File, blank: keras.Model) -> None:
    """Of two tensors of the wrong shape, the first in the network's order is named."""
    put(current, "layers/dense/vars/0", np.zeros((1, 1), np.float32))
    put(current, "layers/separable_conv2d_3/vars/1", np.zeros((1, 1, 256, 9), np.float32))
    assert refusal(current, blank) == (
        "layer 'separable_conv2d_3' (the network's conv4), pointwise_kernel: "
        "shape (1, 1, 256, 9), the network's is (1, 1, 256, 256)"
    )


def test_shape_legacy(legacy: h5py.File, blank: keras.Model) -> None:
    """In the legacy layout it is named as the file names it."""
    name = "batch_normalization_12/batch_normalization_12/moving_mean:0"
    put(legacy, name, np.zeros(3, np.float32))
    assert refusal(legacy, blank) == (
        "layer 'batch_normalization_12' (the network's bn5), moving_mean: "
        "shape (3,), the network's is (256,)"
    )


def test_declared_size(current: h5py.File, blank: keras.Model) -> None:
    """A tensor that claims a terabyte is refused by its shape, unread."""
    del current["layers/dense/vars/0"]
    current["layers/dense/vars"].create_dataset("0", (2**19, 2**19), np.float32, chunks=(64, 64))
    assert "shape (524288, 524288)" in refusal(current, blank)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_not_finite(value: float, current: h5py.File, blank: keras.Model) -> None:
    """NaN and infinity are refused, and the tensor named."""
    current["layers/batch_normalization_8/vars/3"][5] = value
    assert refusal(current, blank) == (
        "layer 'batch_normalization_8' (the network's bn9), moving_variance: "
        "values that are not finite"
    )


def test_overflow(current: h5py.File, blank: keras.Model) -> None:
    """A double too large for float32 is refused like infinity."""
    put(current, "layers/dense_2/vars/1", np.full(4, 1e300))
    assert refusal(current, blank).endswith("bias: values that are not finite")


def test_integers(current: h5py.File, blank: keras.Model) -> None:
    """Quantised weights are refused: they mean nothing without their scale."""
    put(current, "layers/dense_2/vars/0", np.ones((1024, 4), np.int8))
    assert refusal(current, blank) == (
        "layer 'dense_2' (the network's probabilities), kernel: int8 is not a floating-point type"
    )


def test_layer_count(current: h5py.File, blank: keras.Model) -> None:
    """A layer too few is told by kind and number, with the layers that are there."""
    del current["layers/dense_1"]
    assert refusal(current, blank) == "2 dense layers where the network has 3: dense, dense_2"


def test_layer_too_many(legacy: h5py.File, blank: keras.Model) -> None:
    """So is a layer too many."""
    names = legacy.attrs["layer_names"]
    legacy.attrs["layer_names"] = np.concatenate([names, names[-1:]])
    assert refusal(legacy, blank).startswith("4 dense layers where the network has 3: dense_8")


def test_other_layer(current: h5py.File, blank: keras.Model) -> None:
    """A layer with weights that the network does not have is refused, not dropped."""
    current["layers/layer_normalization/vars/0"] = np.ones(512, np.float32)
    assert refusal(current, blank) == (
        "layer 'layer_normalization' is none of this network's: it has 0 (512,)"
    )


def test_no_bias(legacy: h5py.File, blank: keras.Model) -> None:
    """A layer without one of its tensors is refused."""
    legacy["separable_conv2d_9"].attrs["weight_names"] = [
        b"separable_conv2d_9/depthwise_kernel:0",
        b"separable_conv2d_9/pointwise_kernel:0",
    ]
    message = refusal(legacy, blank)
    assert message.startswith("layer 'separable_conv2d_9' is none of this network's: it has depth")


def test_order_unknown(current: h5py.File, blank: keras.Model) -> None:
    """One kind of layer both inside and outside a nested model has no order: refused."""
    current.move("layers/dense_2", "layers/sequential/layers/dense")
    assert refusal(current, blank).startswith("dense layers in two places, layers and layers/seq")


def test_named_but_missing(legacy: h5py.File, blank: keras.Model) -> None:
    """A tensor in the list but not in the file is damage."""
    del legacy["dense_8/dense_8/bias:0"]
    assert refusal(legacy, blank).startswith("damaged or cut short (")


def test_no_weights(tmp_path: Path, blank: keras.Model) -> None:
    """HDF5 of anything else has no weights."""
    with h5py.File(tmp_path / "data.h5", "w") as file:
        file["images"] = np.zeros(3)
        assert refusal(file, blank) == "no layer's weights in it"


@pytest.mark.parametrize("name", ["w.keras", "w.weights.h5", "w.h5"])
@pytest.mark.parametrize("part", [0.02, 0.6, 0.999])
def test_cut_short(
    name: str, part: float, network: keras.Model, blank: keras.Model, tmp_path: Path
) -> None:
    """A download that stopped is refused, wherever it stopped."""
    path = tmp_path / name
    save_weights(network, path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * part)])
    with pytest.raises(WeightsError, match=rf"{name}: damaged or cut short \("):
        read_weights(blank, path)


def test_flipped_byte(network: keras.Model, blank: keras.Model, tmp_path: Path) -> None:
    """An archive's checksum is verified."""
    path = tmp_path / "w.keras"
    save_weights(network, path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(WeightsError, match="damaged"):
        read_weights(blank, path)


@pytest.mark.parametrize("content", [b"", b"version https://git-lfs.github.com/spec/v1\n"])
def test_text(content: bytes, blank: keras.Model, tmp_path: Path) -> None:
    """An empty file and a Git LFS pointer are no weights."""
    (tmp_path / "w.h5").write_bytes(content)
    with pytest.raises(WeightsError, match=r"w\.h5: neither HDF5 nor a Keras archive"):
        read_weights(blank, tmp_path / "w.h5")


def test_other_archive(blank: keras.Model, tmp_path: Path) -> None:
    """A zip archive of anything else is refused."""
    with zipfile.ZipFile(tmp_path / "w.keras", "w") as target:
        target.writestr("readme.txt", "")
    with pytest.raises(WeightsError, match=r"a zip archive without model\.weights\.h5"):
        read_weights(blank, tmp_path / "w.keras")


def test_missing(tmp_path: Path) -> None:
    """A path with nothing there is told as that."""
    with pytest.raises(WeightsError, match=r"w\.keras: there is no such file"):
        load_weights(tmp_path / "w.keras")
