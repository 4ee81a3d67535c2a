"""What the first photograph need not wait for."""

import re
import subprocess
import sys

from aiohttp.test_utils import unused_port

from gateway.app import create_app
from gateway.settings import Settings

FIRST = """
import asyncio, sys, threading
from aiohttp import web
from gateway.app import create_app
from gateway.server import Runner
from gateway.settings import Settings


async def main(model_server, path):
    photograph = open(path, "rb").read()
    runner = Runner(create_app(Settings(model_server=model_server, workers=3)))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    reader, writer = await asyncio.open_connection(*runner.addresses[0])
    loaded, threads = set(sys.modules), threading.active_count()
    head = "POST /v1/classify HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\n"
    head += f"Content-Type: image/png\\r\\nContent-Length: {len(photograph)}\\r\\n\\r\\n"
    writer.write(head.encode() + photograph)
    answer = await reader.read()
    print(answer[9:12].decode(), set(sys.modules) - loaded, threading.active_count() - threads)
    writer.close()
    await runner.cleanup()


asyncio.run(main(*sys.argv[1:]))
"""


def test_the_first_photograph_finds_everything_there(model_server, smear, tmp_path):
    """It is answered, loads no module, and starts no thread."""
    smear.save(tmp_path / "cell.png")
    run = [sys.executable, "-c", FIRST, model_server, tmp_path / "cell.png"]
    done = subprocess.run(run, capture_output=True, text=True, check=True)
    assert done.stdout == "200 set() 0\n"


async def test_no_model_is_needed_to_be_warm(aiohttp_client):
    """The process is alive where nobody answers, and nothing is counted as a photograph."""
    settings = Settings(model_server=f"127.0.0.1:{unused_port()}")
    client = await aiohttp_client(create_app(settings))
    assert (await client.get("/livez")).status == 200
    counted = await (await client.get("/metrics")).text()
    assert "hemavision_stage_duration_seconds_count{" not in counted
    assert not re.search(r'hemavision_rpc_duration_seconds_count\{.*signature="[^"]', counted)
    assert not re.search(r"^hemavision_photographs_total\{.*\} [^0]", counted, re.MULTILINE)
