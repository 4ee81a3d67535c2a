"""What is no service to load, and what are no photographs to send: a sentence and status 2."""

import pytest

from loadtest import photographs, target
from loadtest.target import Target


@pytest.fixture
def refused(capsys):
    """The one sentence in which something is refused."""

    def run(check, *arguments) -> str:
        with pytest.raises(SystemExit) as ended:
            check(*arguments)
        assert ended.value.code == 2
        (told,) = capsys.readouterr().err.splitlines()
        return told

    return run


def test_a_gateway_that_is_ready_is_taken(gateway):
    """Nothing is said."""
    target.check(Target(gateway))


@pytest.mark.parametrize("url", ["nowhere", "127.0.0.1:8080", "ftp://a:b"])
def test_what_is_no_url_is_told(url, refused):
    """With what it begins with: an address alone may well be a gateway's."""
    assert refused(target.check, Target(url)) == (
        f"{url} is no URL: begin it with http:// or https://"
    )


@pytest.mark.parametrize("url", ["http://", "http://127.0.0.1:99999"])
def test_what_is_no_address_is_told(url, refused):
    """Whatever is wrong with it."""
    assert refused(target.check, Target(url)).startswith(f"No gateway can be reached at {url} ")


def test_nobody_there_is_told(nobody, refused):
    """And how to start one."""
    told = refused(target.check, Target(nobody))
    assert "Connection refused" in told
    assert "make run" in told


def test_a_gateway_that_is_not_ready_is_told_in_its_own_words(unready, refused):
    """What /readyz says."""
    told = refused(target.check, Target(unready))
    assert told.startswith(f"The gateway at {unready} is not ready: /readyz answered 503: ")
    assert "model" in told


def test_another_service_is_told(model_server, refused):
    """The model server's gRPC is no HTTP/1.1."""
    told = refused(target.check, Target(f"http://{model_server}"))
    assert told.endswith("is no gateway: it does not speak HTTP.")


def test_a_rejected_key_is_told(guarded, refused):
    """None, and a wrong one; the right one is taken."""
    url, key = guarded
    assert "rejects requests without a key" in refused(target.check, Target(url))
    assert "rejects the key that was given" in refused(target.check, Target(url, "hv_wrong"))
    target.check(Target(url, key))


def test_a_model_server_that_is_there_is_taken(model_server):
    """Nothing is said."""
    target.check_model_server(model_server)


@pytest.mark.parametrize("address", ["nonsense", "127.0.0.1:", "127.0.0.1:99999", ":0"])
def test_no_model_server_is_told(address, refused):
    """And how to start one whose address is known."""
    told = refused(target.check_model_server, address)
    assert told.startswith(f"No model server can be reached at {address} (")
    assert "`python -m export serve --address 127.0.0.1:8500`" in told


def test_folders_without_photographs_are_told(tmp_path, refused):
    """Empty, absent, or with a file that leads nowhere."""
    assert "no photograph in" in refused(photographs.named, tmp_path, 1)
    assert "is no folder" in refused(photographs.named, tmp_path / "nowhere", 1)
    (tmp_path / "cell.jpg").symlink_to("nowhere")
    assert "cell.jpg cannot be read: No such file" in refused(photographs.named, tmp_path, 1)


@pytest.mark.parametrize(("files", "most"), [(7, 4), (5, 3), (8, 4), (3, 9), (1, 1)])
def test_photographs_are_spread_over_the_whole_folder(files, most, tmp_path):
    """A folder for each class: with fewer than twice as many as are taken the last counts too."""
    for number in range(files):
        (tmp_path / f"{number}.jpg").write_bytes(bytes([number]))
    taken = [one.body[0] for one in photographs.named(tmp_path, most)]
    count = min(most, files)
    assert len(taken) == count
    gaps = [after - before for before, after in zip(taken, [*taken[1:], files], strict=True)]
    assert {*gaps} <= {files // count, -(-files // count)}
