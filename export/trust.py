"""How far a heat map can be trusted: seven kinds of map, each put to the same four questions.

- Does it point at the cell? The pointing game: its hottest pixel lies in a white cell's box
  (Zhang et al., IJCV 126, 2018).
- Does it stay on the cell? The share of its energy inside the boxes (Wang et al., Score-CAM,
  CVPRW 2020).
- Does it show what decides? Pixels are deleted or inserted, hottest first; the area under the
  class's probability is low or high where the map is right (Petsiuk et al., RISE, BMVC 2018).
- Does it depend on what was learnt? The layers are randomised one after the other from the top,
  and the map must change (Adebayo et al., NeurIPS 2018).

Each map explains the predicted class and is measured where the gateway lays it on the photograph.
Pure but for reading photographs; what is returned holds figures alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from rich.console import Console
from rich.progress import track

from export.augment import Specimen
from export.dataset import Box, Photograph, load_upright
from export.gradcam import (
    Network,
    Slopes,
    classify,
    fine_map,
    focused,
    gradcam,
    hirescam,
    layercam,
    slopes,
)
from gateway import contract
from gateway.pixels import to_tensor

MAPS: dict[str, Callable[[Slopes], tf.Tensor]] = {
    "gradcam_4x4": lambda found: gradcam(found.features, found.gradients),
    "gradcam_18x18": lambda found: gradcam(found.fine, found.fine_gradients),
    "layercam_18x18": lambda found: layercam(found.fine, found.fine_gradients),
    "hirescam_18x18": lambda found: hirescam(found.fine, found.fine_gradients),
    "layercam_18x18_and_9x9": lambda found: focused(
        layercam(found.fine, found.fine_gradients), layercam(found.middle, found.middle_gradients)
    ),
    "hirescam_18x18_layercam_9x9": lambda found: focused(
        hirescam(found.fine, found.fine_gradients), layercam(found.middle, found.middle_gradients)
    ),
    "hirescam_18x18_layercam_18x18_and_9x9": fine_map,
}
"""The maps that are compared, [N, h, h] each, >= 0."""

STEPS = 16
"""Shares of the pixels at which deletion and insertion are measured, besides none."""

BLUR = 20.0
"""Standard deviation, in pixels of the input, of the blur that insertion starts from: a cell of
BCCD is a stain then, without outline or nucleus."""

_BATCH = 16
_TERMINAL = Console(stderr=True)
_RESAMPLES = 1000

Floats = NDArray[np.float32]
Pixels = NDArray[np.uint8]
Mask = NDArray[np.bool_]
Maps = dict[str, Floats]


# ---- a map on the photograph


def placed(cam: Floats) -> Floats:
    """Lay a map [h, h] over the model's input: [224, 224], >= 0, as the gateway lays it.

    The gateway interpolates rows, then columns, and cuts off what overshoots after either; it
    also rounds to 8 bits. A test holds both together.
    """
    weights, highest = _placement(len(cam)), cam.max()
    rows = (cam @ weights.T).clip(0, highest)
    return np.asarray((weights @ rows).clip(0, highest))


@cache
def _placement(cells: int) -> Floats:
    """The share of each cell of a row in each pixel of a row: [224, cells].

    It is Pillow's own interpolation of one cell at a time: it is linear.
    """
    pitch = contract.CAM_PITCH if cells == contract.CAM_SIZE else contract.CAM_FINE_PITCH
    start = 1 - contract.CAM_ORIGIN / pitch
    end = start + contract.INPUT_SIZE / pitch
    rows = np.pad(np.eye(cells, dtype=np.float32), ((1, 1), (0, 0)), mode="edge")
    size = (cells, contract.INPUT_SIZE)
    return np.asarray(
        Image.fromarray(rows).resize(size, Image.Resampling.BICUBIC, (0, start, cells, end))
    )


def inside(boxes: Sequence[Box], size: tuple[int, int]) -> Mask:
    """Which pixels of the model's input lie in a box of a photograph of ``size``: [224, 224]."""
    centres = (np.arange(contract.INPUT_SIZE) + 0.5) / contract.INPUT_SIZE
    x, y = centres * size[0], centres * size[1]
    mask = np.zeros((contract.INPUT_SIZE, contract.INPUT_SIZE), np.bool_)
    for left, top, right, bottom in boxes:
        mask |= np.outer((y >= top) & (y <= bottom), (x >= left) & (x <= right))
    return mask


def points_inside(heat: Floats, mask: Mask) -> bool:
    """Whether the hottest pixel of a placed map lies in the mask; a map of zeros points nowhere.

    A cut-off peak is a few pixels wide: of equally hot pixels most must lie there.
    """
    hottest = heat >= (1 - 1e-6) * heat.max()
    return bool(heat.max() > 0 and mask[hottest].mean() > 0.5)


def energy_inside(heat: Floats, mask: Mask) -> float:
    """The share of a placed map's sum that lies in the mask; a flat map has none there."""
    total = float(heat.sum())
    return float(heat[mask].sum()) / total if total > 0 else 0.0


# ---- deletion and insertion


def ranks(heat: Floats, ties: Floats) -> NDArray[np.int64]:
    """The place of each pixel from the hottest, 0, to the coldest: int64, the map's shape.

    Equal heat, such as none at all, is ordered by the map ``ties``.
    """
    order = np.lexsort((-ties.ravel(), -heat.ravel()))
    ranked = np.empty(heat.size, np.int64)
    ranked[order] = np.arange(heat.size)
    return ranked.reshape(heat.shape)


def replaced(picture: Pixels, by: Pixels, ranked: NDArray[np.int64], steps: int = STEPS) -> Pixels:
    """Replace the first 0, 1/steps, ... 1 of a picture's pixels: [steps + 1, H, W, 3]."""
    first = ranked.size * np.arange(steps + 1) / steps
    return np.where((ranked < first[:, None, None])[..., None], by, picture)


def area_under(curve: NDArray[np.float64]) -> float:
    """The area under a curve over 0 to 1, by trapezoids."""
    return float((curve[:-1] + curve[1:]).mean() / 2)


# ---- rank correlation


def spearman(one: Floats, other: Floats) -> float:
    """Spearman's rank correlation of two maps; 0 where one of them is flat."""
    first, second = _average_ranks(one), _average_ranks(other)
    if first.std() == 0 or second.std() == 0:
        return 0.0
    return float(np.corrcoef(first, second)[0, 1])


def _average_ranks(values: Floats) -> NDArray[np.float64]:
    """Ranks from 0; equal values share the mean of theirs."""
    _, which, counts = np.unique(values.ravel(), return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(counts) - (counts + 1) / 2)[which])


# ---- photographs


def spread(photographs: Sequence[Photograph], count: int) -> list[Photograph]:
    """Choose ``count`` photographs, as many of each class as there are: the same every time."""
    shuffled = np.random.default_rng(0).permutation(len(photographs))
    taken: dict[int, int] = {}
    turns = []
    for position in shuffled:
        label = photographs[position].label
        taken[label] = taken.get(label, 0) + 1
        turns.append((taken[label], label, int(position)))
    return [photographs[position] for _, _, position in sorted(turns)[:count]]


class _Shown(NamedTuple):
    """A photograph as the model sees it, and where its white cells are."""

    photograph: Photograph
    pixels: Pixels
    cells: Mask

    @classmethod
    def of(cls, photograph: Photograph) -> _Shown:
        picture = load_upright(photograph.path)
        return cls(photograph, to_tensor(picture), inside(photograph.boxes, picture.size))


def _explained(network: Network, pixels: Pixels, classes: NDArray[np.int32]) -> tuple[Floats, Maps]:
    """Logits [N, C] and every map of ``classes``, [N, h, h]."""
    found = slopes(network, tf.constant(pixels), tf.constant(classes))
    return found.logits.numpy(), {name: make(found).numpy() for name, make in MAPS.items()}


def _figure(values: Sequence[float], groups: Sequence[str]) -> dict[str, Any]:
    """A mean with its 95 % bootstrap interval, resampling groups (Efron & Tibshirani 1993)."""
    names, which = np.unique(groups, return_inverse=True)
    sums = np.bincount(which, np.asarray(values, float))
    counts = np.bincount(which)
    drawn = np.random.default_rng(0).multinomial(
        len(names), np.full(len(names), 1 / len(names)), _RESAMPLES
    )
    means = (drawn @ sums) / (drawn @ counts)
    return {
        "value": round(float(np.mean(values)), 4),
        "interval_95": [round(float(edge), 4) for edge in np.percentile(means, [2.5, 97.5])],
    }


# ---- the measures, source by source


def trust(
    model: keras.Model, photographs: Sequence[Photograph], count: int = 200, randomised: int = 32
) -> dict[str, Any]:
    """Measure every map on labelled photographs, by source; return what JSON can hold.

    Args:
        model: the trained network. It is left as it is.
        photographs: those with boxes serve the pointing game and the energy, if answered right.
        count: how many of each source serve deletion and insertion.
        randomised: how many of those serve the randomisation.
    """
    network = Network.of(model)
    report: dict[str, Any] = {}
    for source in sorted({photograph.source for photograph in photographs}):
        own = [photograph for photograph in photographs if photograph.source == source]
        chosen = spread(own, count)
        report[source] = {
            "photographs": len(own),
            "by_split": {s: sum(p.split == s for p in own) for s in sorted({p.split for p in own})},
            **_on_the_cell(network, [p for p in own if p.boxes], f"{source}: pointing"),
            **_perturbation(network, chosen, f"{source}: deletion and insertion"),
            "randomisation": _randomisation(model, chosen[:randomised], f"{source}: randomisation"),
        }
    return report


def _on_the_cell(network: Network, boxed: Sequence[Photograph], title: str) -> dict[str, Any]:
    """The pointing game and the energy inside the boxes, of the photographs answered right.

    Chance is the share of the picture that the boxes take; another baseline always points at
    the picture's centre.
    """
    groups: list[str] = []
    points: dict[str, list[float]] = {name: [] for name in (*MAPS, "centre", "chance")}
    energy: dict[str, list[float]] = {name: [] for name in (*MAPS, "chance")}
    middle = contract.INPUT_SIZE // 2
    for start in track(range(0, len(boxed), _BATCH), title, transient=True, console=_TERMINAL):
        shown = [_Shown.of(photograph) for photograph in boxed[start : start + _BATCH]]
        predicted = np.full(len(shown), contract.PREDICTED_CLASS, np.int32)
        logits, maps = _explained(network, np.stack([s.pixels for s in shown]), predicted)
        for row, (photograph, _, cells) in enumerate(shown):
            if logits[row].argmax() != photograph.label:
                continue
            groups.append(photograph.group)
            for name, cams in maps.items():
                heat = placed(cams[row])
                points[name].append(points_inside(heat, cells))
                energy[name].append(energy_inside(heat, cells))
            points["centre"].append(bool(cells[middle, middle]))
            for share in (points["chance"], energy["chance"]):
                share.append(float(cells.mean()))
    figures: dict[str, Any] = {"boxed": len(boxed), "boxed_and_right": len(groups)}
    if groups:
        figures["pointing"] = {name: _figure(points[name], groups) for name in points}
        figures["energy"] = {name: _figure(energy[name], groups) for name in energy}
    return figures


def _perturbation(network: Network, chosen: Sequence[Photograph], title: str) -> dict[str, Any]:
    """Deletion and insertion curves of the predicted class's probability, and their areas.

    A photograph is deleted to its own plain background, and inserted into a blur of itself. The
    baselines are a smooth random order and one from the picture's centre outwards.
    """
    orders = (*MAPS, "random", "centre")
    curves: dict[str, dict[str, list[NDArray[np.float64]]]] = {
        "deletion": {name: [] for name in orders},
        "insertion": {name: [] for name in orders},
    }
    answer = tf.function(lambda pictures: classify(network, pictures)[contract.PROBABILITIES])
    for number, photograph in enumerate(track(chosen, title, transient=True, console=_TERMINAL)):
        pixels = _Shown.of(photograph).pixels
        plain, blurred = without_cells(pixels)
        logits, maps = _explained(network, pixels[None], np.array([-1], np.int32))
        label = int(logits[0].argmax())
        rng = np.random.default_rng(number)
        noise = placed(rng.random((18, 18), np.float32))
        heats = {name: placed(cams[0]) for name, cams in maps.items()}
        for name, heat in (heats | {"random": noise, "centre": centre_prior()}).items():
            ranked = ranks(heat, noise)
            series = (replaced(pixels, plain, ranked), replaced(blurred, pixels, ranked))
            probabilities = answer(np.concatenate(series)).numpy()[:, label].astype(float)
            for measure, curve in zip(curves, np.split(probabilities, 2), strict=True):
                curves[measure][name].append(curve)
    groups = [photograph.group for photograph in chosen]
    return {"perturbed": len(chosen)} | {
        measure: {
            name: _figure([area_under(curve) for curve in drawn], groups)
            | {"curve": [round(float(p), 4) for p in np.mean(drawn, 0)]}
            for name, drawn in by_order.items()
        }
        for measure, by_order in curves.items()
    }


def without_cells(pixels: Pixels) -> tuple[Pixels, Pixels]:
    """A picture of the photograph's background alone, and one blurred past recognition."""
    picture = Image.fromarray(pixels)
    plain = np.full_like(pixels, Specimen.of(picture, None).background)
    return plain, np.asarray(picture.filter(ImageFilter.GaussianBlur(BLUR)))


@cache
def centre_prior() -> Floats:
    """A Gaussian round the picture's centre, a quarter of its side wide: [224, 224]."""
    places = (np.arange(contract.INPUT_SIZE) + 0.5) / contract.INPUT_SIZE - 0.5
    one = np.exp(-((places / 0.25) ** 2) / 2)
    return np.outer(one, one).astype(np.float32)


def _randomisation(model: keras.Model, chosen: Sequence[Photograph], title: str) -> dict[str, Any]:
    """Each map's mean rank correlation with the trained network's, layer by layer from the top.

    Batch normalisation stays as it was trained. A map that is all zero counts as 0.
    """
    clone = keras.models.clone_model(model)
    clone.set_weights(model.get_weights())
    network = Network.of(clone)
    pixels = np.stack([_Shown.of(photograph).pixels for photograph in chosen])
    logits, original = _explained_in_batches(network, pixels, np.full(len(pixels), -1, np.int32))
    predicted = logits.argmax(1).astype(np.int32)
    rng = np.random.default_rng(0)
    layers = [layer for layer in reversed(clone.layers) if _learnt(layer)]
    correlations: dict[str, list[float]] = {name: [1.0] for name in MAPS}
    for layer in track(layers, title, transient=True, console=_TERMINAL):
        layer.set_weights([unlearnt(weight, rng) for weight in layer.get_weights()])
        _, maps = _explained_in_batches(network, pixels, predicted)
        for name, cams in maps.items():
            found = [spearman(a, b) for a, b in zip(original[name], cams, strict=True)]
            correlations[name].append(round(float(np.mean(found)), 4))
    names = ["trained", *(layer.name for layer in layers)]
    return {"photographs": len(chosen), "layers": names, **correlations}


def unlearnt(weight: Floats, rng: np.random.Generator) -> Floats:
    """Draw a kernel anew, with mean 0 and the spread that it had; a bias becomes 0.

    Mean 0 keeps half of the units alive behind their ReLU. Shuffled weights, whose mean is often
    below 0, would let none through, and a map of zeros says nothing about a method.
    """
    if weight.ndim == 1:
        return np.zeros_like(weight)
    return np.asarray(rng.normal(0, weight.std(), weight.shape), np.float32)


def _learnt(layer: keras.layers.Layer) -> bool:
    return bool(layer.weights) and not isinstance(layer, keras.layers.BatchNormalization)


def _explained_in_batches(
    network: Network, pixels: Pixels, classes: NDArray[np.int32]
) -> tuple[Floats, Maps]:
    parts = [
        _explained(network, pixels[start : start + _BATCH], classes[start : start + _BATCH])
        for start in range(0, len(pixels), _BATCH)
    ]
    maps = {name: np.concatenate([found[name] for _, found in parts]) for name in MAPS}
    return np.concatenate([logits for logits, _ in parts]), maps
