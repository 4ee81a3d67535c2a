"""Asked directly or through a server, a model says the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from export.answers import ServerError, from_network, from_server, hidden_features
from export.dataset import DatasetError, Photograph
from export.smear import draw_samples


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> list[Photograph]:
    """Four drawn pictures, often enough to fill more than one batch."""
    paths = draw_samples(tmp_path_factory.mktemp("drawn"), seed=1)
    return [
        Photograph(path, label, "drawn", "test", f"{label} {copy}")
        for copy in range(10)
        for label, path in enumerate(paths)
    ]


def test_a_server_gives_the_same_answers(tiny_network, model_server, drawn) -> None:
    """The whole way over gRPC changes no figure."""
    direct, served = from_network(tiny_network, drawn), from_server(model_server, drawn)
    assert len(direct.logits) == len(drawn) == 40
    np.testing.assert_allclose(served.logits, direct.logits, atol=1e-5)
    np.testing.assert_allclose(served.unfamiliarity, direct.unfamiliarity, rtol=1e-4)
    assert served.photographs == direct.photographs


def test_answers_are_in_the_photographs_order(tiny_network, drawn) -> None:
    """Batches are put together as they were taken apart."""
    alone = np.concatenate([from_network(tiny_network, [p]).logits for p in drawn[:4]])
    np.testing.assert_allclose(from_network(tiny_network, drawn).logits[:4], alone, atol=1e-5)


def test_no_photographs_give_no_answers(tiny_network) -> None:
    """Data without other cells is measured like any."""
    nothing = from_network(tiny_network, [])
    assert nothing.logits.shape == (0, 4)
    assert nothing.unfamiliarity.shape == (0,)


def test_hidden_features_are_what_the_last_layer_sees(tiny_network, drawn) -> None:
    """Its kernel and bias make the logits of them."""
    kernel, bias = tiny_network.classifier.get_weights()
    expected = hidden_features(tiny_network, drawn[:4]) @ kernel + bias
    np.testing.assert_allclose(from_network(tiny_network, drawn[:4]).logits, expected, atol=1e-5)


def test_a_server_that_is_not_there_is_named(drawn: list[Photograph]) -> None:
    """With its address and gRPC's word for it."""
    with pytest.raises(ServerError, match=r"at 127\.0\.0\.1:1 does not answer: UNAVAILABLE"):
        from_server("127.0.0.1:1", drawn[:1])


def test_a_picture_that_is_none_is_no_servers_fault(tmp_path: Path, tiny_network) -> None:
    """It is named by the decoder."""
    (tmp_path / "half.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    broken = Photograph(tmp_path / "half.png", 0, "s", "test", "g")
    with pytest.raises(DatasetError, match=r"half\.png"):
        from_network(tiny_network, [broken])
