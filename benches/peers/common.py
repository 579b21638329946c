"""What the scripts share: their common options, timing, and one JSON line per result."""

import argparse
import datetime
import json
import statistics
import time
from collections.abc import Callable


def parser(description: str | None) -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    options.add_argument("--batch", type=int, default=1, help="images in a batch")
    options.add_argument("--size", type=size, default="800x1066", metavar="HxW", help="pixels of an image")
    options.add_argument("--runs", type=int, default=20, help="timed runs; the median is printed")
    options.add_argument("--warmup", type=int, default=5, help="runs before those")
    return options


def size(text: str) -> tuple[int, int]:
    """Height and width from "800x1066"."""
    try:
        height, width = (int(part) for part in text.lower().split("x"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not HEIGHTxWIDTH, as 800x1066 is") from None
    return height, width


def median_ms(step: Callable[[], object], runs: int, warmup: int, sync: Callable[[], object] = lambda: None) -> float:
    """Milliseconds of one step. Every run is waited for by itself: what a caller sees who needs the result."""
    for _ in range(warmup):
        step()
    times = []
    for _ in range(runs):
        sync()
        start = time.perf_counter()
        step()
        sync()
        times.append((time.perf_counter() - start) * 1e3)
    return statistics.median(times)


def report(**result: object) -> None:
    """Prints a result as a line of JSON; floats with 4 significant digits."""
    rounded = {key: float(f"{value:.4g}") if isinstance(value, float) else value for key, value in result.items()}
    print(json.dumps({**rounded, "date": datetime.date.today().isoformat()}), flush=True)
