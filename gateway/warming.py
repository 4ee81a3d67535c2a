"""Before the first photograph: the threads, decoders and tables that it would wait for."""

from __future__ import annotations

import asyncio
from concurrent.futures import Executor

import numpy as np
from PIL import Image

from gateway import heatmap, imaging, quality
from gateway.contract import CAM_FINE_SIZE


async def warm(workers: Executor, threads: int) -> None:
    """Read and draw a picture of nothing in each of the worker threads; it is never answered."""
    loop = asyncio.get_running_loop()
    await asyncio.gather(*(loop.run_in_executor(workers, _rehearse) for _ in range(threads)))


def _rehearse() -> None:
    drawn = heatmap.encode(Image.radial_gradient("L").convert("RGB"), "png")
    photograph = imaging.read_photograph(drawn, max_pixels=256 * 256)
    quality.assess(photograph)
    cam = np.eye(CAM_FINE_SIZE, dtype=np.float32)
    heatmap.encode(heatmap.overlay(photograph.picture, cam, "jet", 0.4), "jpeg")
