"""What is sent, and when an answer is right."""

import io
import json

import grpc
import numpy as np
import pytest
from PIL import Image

from gateway import contract
from loadtest import answers, predict, requests
from loadtest.photographs import Photograph
from loadtest.requests import Reply
from loadtest.samples import RIGHT, WRONG

FOUR = ["EOSINOPHIL", "LYMPHOCYTE", "MONOCYTE", "NEUTROPHIL"]


@pytest.fixture
def cells(jpeg) -> list[Photograph]:
    """Three photographs in a folder of a class."""
    return [Photograph(f"{number}.jpg", jpeg, "MONOCYTE") for number in range(3)]


def reply(prediction="MONOCYTE", sure=0.9, **others) -> Reply:
    shares = dict.fromkeys(FOUR, (1 - sure) / 3) | {prediction: sure}
    said = {"prediction": prediction, "confidence": sure, "probabilities": shares, **others}
    return Reply(200, json.dumps(said).encode())


def png(colour) -> Reply:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), colour).save(buffer, "PNG")
    return Reply(200, buffer.getvalue())


def learnt(make, cells, right: Reply):
    """The first request of a kind, with its right answer."""
    return requests.with_right_answers(list(make(cells, 1))[:1], lambda _: right)[0]


def test_an_answer_that_differs_from_the_idle_ones_is_wrong(cells):
    """Another class or other probabilities; rounding and the request's id are no difference."""
    request = learnt(requests.interactive, cells, reply(request_id="a"))
    assert request.outcome(reply(request_id="b", sure=0.899)) == RIGHT
    assert request.outcome(reply("NEUTROPHIL")) == WRONG
    assert request.outcome(reply(sure=0.6)) == WRONG
    assert request.outcome(Reply(200, b'{"status": "ready"}')) == WRONG
    assert request.outcome(Reply(503)) == "503"
    assert request.outcome(Reply(0, failure="TimeoutError")) == "TimeoutError"


def test_an_overlay_is_right_when_it_looks_the_same(cells):
    """A colour one step off is rounding; another colour, or no picture, is wrong."""
    request = learnt(requests.explain, cells, png((200, 90, 0)))
    assert request.outcome(png((200, 90, 0))) == RIGHT
    assert request.outcome(png((201, 89, 0))) == RIGHT
    assert request.outcome(png((100, 90, 0))) == WRONG
    assert request.outcome(Reply(200, b"{}")) == WRONG


def test_several_results_are_one_answer(cells):
    """One of them missing or wrong is a wrong answer."""
    both = b'{"results": [' + reply().body + b", " + reply("NEUTROPHIL").body + b"]}"
    assert answers.results(both).classes == ("MONOCYTE", "NEUTROPHIL")
    assert not answers.results(both).same_as(answers.results(reply().body))


def test_a_photograph_refused_in_a_form_is_no_wrong_answer(cells):
    """The form's status is 200; the photograph's own is told."""
    request = learnt(requests.batch, cells, reply())
    problem = {"type": "urn:hemavision:problem:overloaded", "title": "Too many", "status": 503}
    assert request.outcome(Reply(200, json.dumps({"results": [problem]}).encode())) == "503"


def test_a_service_that_is_wrong_when_idle_is_told_by_the_folders(cells):
    """The folder's name is the class; a folder of another name says nothing."""
    asked = learnt(requests.interactive, cells, reply("NEUTROPHIL"))
    assert requests.misnamed([asked]) == ["MONOCYTE/0.jpg"]
    assert not requests.misnamed([learnt(requests.interactive, cells, reply())])
    other = [Photograph("0.jpg", b"", "samples")]
    assert not requests.misnamed([learnt(requests.interactive, other, reply())])


def test_a_service_that_answers_nothing_when_idle_is_not_loaded(cells, capsys):
    """Status 2, and what it said."""
    with pytest.raises(SystemExit) as ended:
        learnt(requests.interactive, cells, Reply(415, b'{"detail": "Send a JPEG."}'))
    assert ended.value.code == 2
    told = "MONOCYTE/0.jpg got 415 as interactive from an idle service: Send a JPEG.\n"
    assert capsys.readouterr().err == told


PROBLEM = {
    "type": "urn:hemavision:problem:unsupported-media", "status": 415, "detail": "Send a JPEG."
}  # fmt: skip


@pytest.mark.parametrize(
    "said",
    [
        {"results": [json.loads(reply().body), PROBLEM]},
        {"photographs": [{"prediction": "MONOCYTE", "problem": None}, {"problem": PROBLEM}]},
    ],
)
def test_the_photograph_that_is_refused_in_a_form_is_named(said, cells, capsys):
    """In a batch or a series: the second of its photographs."""
    (form,) = requests.batch(cells, 3)
    with pytest.raises(SystemExit) as ended:
        requests.with_right_answers([form], lambda _: Reply(200, json.dumps(said).encode()))
    assert ended.value.code == 2
    told = "MONOCYTE/1.jpg got 415 as batch of 3 from an idle service: Send a JPEG.\n"
    assert capsys.readouterr().err == told


@pytest.mark.parametrize(
    "busy", [Reply(429), Reply(503), Reply(200, json.dumps(PROBLEM | {"status": 503}).encode())]
)
def test_a_service_that_others_ask_too_is_asked_again(busy, cells):
    """Each worker learns the right answers: what it was refused for that is none of them."""
    replies = iter([busy, reply()])
    asked = requests.with_right_answers(
        list(requests.interactive(cells[:1], 1)), lambda _: next(replies)
    )
    assert asked[0].outcome(reply()) == RIGHT


def test_forms_hold_as_many_photographs_as_asked(cells):
    """Where the folder has too few, they begin again; each part is named `file`."""
    (form,) = requests.batch(cells, 5)
    assert form.body.count(b'name="file"') == 5
    assert len(form.photographs) == 5
    assert len(list(requests.differential(cells, 1))) == 3


def test_every_other_class_is_asked_for(cells):
    """Why not this one, why not that one."""
    paths = [request.path for request in requests.explain([*cells, cells[0]], 1)]
    assert [path.removeprefix("/v1/heatmap?explain=") for path in paths] == FOUR


def test_a_predict_request_is_what_the_official_messages_read(jpeg):
    """Written by hand, and the same to TensorFlow Serving's own code."""
    from tensorflow import make_ndarray
    from tensorflow_serving.apis import predict_pb2

    message = predict_pb2.PredictRequest.FromString(predict.request(jpeg))
    assert message.model_spec.name == contract.MODEL_NAME
    assert message.model_spec.signature_name == contract.GRADCAM_SIGNATURE
    assert tuple(message.output_filter) == contract.EXPLANATION  # no less than the gateway asks
    images = make_ndarray(message.inputs["images"])
    assert images.shape == (1, 224, 224, 3)
    assert images.dtype == np.uint8
    assert make_ndarray(message.inputs["class_index"]).tolist() == [contract.PREDICTED_CLASS]
    alone = predict_pb2.PredictRequest.FromString(predict.request(jpeg, explained=False))
    assert alone.model_spec.signature_name == contract.PREDICT_SIGNATURE
    assert alone.inputs["images"] == message.inputs["images"]
    assert list(alone.inputs) == ["images"]
    assert not alone.output_filter


def test_a_model_server_answers_it(model_server, jpeg):
    """And the probabilities are read as the official messages read them."""
    from tensorflow import make_ndarray
    from tensorflow_serving.apis import predict_pb2

    with grpc.insecure_channel(model_server) as channel:
        response = channel.unary_unary(predict.METHOD)(predict.request(jpeg), timeout=30)
    official = predict_pb2.PredictResponse.FromString(response).outputs["probabilities"]
    assert predict.probabilities(response).tolist() == make_ndarray(official).ravel().tolist()
    with pytest.raises(ValueError, match="without probabilities"):
        predict.probabilities(b"")
