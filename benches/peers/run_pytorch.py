"""Times PyTorch on DETR-R50: inference, a training step (floats, and 4-bit fake quantization), and matrix products."""

import argparse
import gc
import platform
from collections.abc import Callable

import torch
from torch import Tensor, nn

import common
import detr
import fake_quantize

INFERENCE = ("eager-fp32", "eager-fp16", "compile-fp16")
TRAINING = ("float", "float-compile", "qat", "qat-compile")
MATMUL = ("fp16", "int8", "fp32")
# Compiling the quantized step takes minutes, so it runs only when asked for.
DEFAULT = [mode for mode in (*INFERENCE, *TRAINING) if mode != "qat-compile"] + [f"matmul-{t}" for t in MATMUL]
COMPILE_MODES = ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")
# Products behind one wait: a single one is so short on a GPU that launching it would be a part of the figure.
PRODUCTS = 20


def main() -> None:
    options = arguments()
    for mode in options.modes:
        if mode in INFERENCE:
            infer(mode, options)
        elif mode in TRAINING:
            train(mode, options)
        else:
            matmul(mode.removeprefix("matmul-"), options)
        torch._dynamo.reset()
        gc.collect()  # so that a mode's memory is not counted for the next one
        if options.device == "cuda":
            torch.cuda.empty_cache()


def arguments() -> argparse.Namespace:
    options = common.parser(__doc__)
    every = [*INFERENCE, *TRAINING, *(f"matmul-{t}" for t in MATMUL)]
    options.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    options.add_argument("--modes", nargs="+", choices=every, default=DEFAULT, metavar="MODE", help=", ".join(every))
    options.add_argument("--compile-mode", choices=COMPILE_MODES, default="reduce-overhead", help="for inference")
    options.add_argument("--bits", type=int, default=4, help="of fake quantization")
    options.add_argument("--matmul-size", type=int, default=4096, help="rows and columns of both operands")
    parsed = options.parse_args()
    if parsed.device == "cuda" and not torch.cuda.is_available():
        options.error("PyTorch finds no CUDA device; --device cpu runs the same code, slowly")
    return parsed


def infer(mode: str, options: argparse.Namespace) -> None:
    allow_tf32(False)
    net = detr.build(*options.size).to(options.device)
    images = detr.random_images(options.batch, *options.size).to(options.device)
    with torch.inference_mode():
        reference = net(images)[0]
    if mode.endswith("fp16"):
        net = net.half().to(memory_format=torch.channels_last)
        images = images.half().to(memory_format=torch.channels_last)
    compiled = mode.startswith("compile")
    run = torch.compile(net, mode=options.compile_mode) if compiled else net
    with torch.inference_mode():
        ms = measure(lambda: run(images), options)
        # Also shows that the random weights overflow nothing in half precision: NaN would be printed.
        difference = (run(images)[0].float() - reference).abs().max().item()
    settings = {"compile_mode": options.compile_mode} if compiled else {}
    tell(mode, options, ms=ms, **image_fields(options), **settings, max_difference_of_logits=difference)


def train(mode: str, options: argparse.Namespace) -> None:
    """A step is forward, backward, clipping and AdamW. Its loss is a plain sum of squares: matching boxes to objects runs
    on the CPU and would hide what the network costs."""
    allow_tf32(True)
    images = detr.random_images(options.batch, *options.size).to(options.device)
    net = trainable(mode, images, options)
    parameters = [p for p in net.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, weight_decay=1e-4, fused=options.device == "cuda")
    run = torch.compile(net) if mode.endswith("compile") else net

    def step() -> None:
        loss = squares(*run(images))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 0.1)
        optimizer.step()

    reset_peak(options.device)
    ms = measure(step, options)
    settings = {"bits": options.bits} if mode.startswith("qat") else {}
    tell(f"train-{mode}", options, ms=ms, peak_gib=peak_gib(options.device), **image_fields(options), **settings)


def trainable(mode: str, images: Tensor, options: argparse.Namespace) -> detr.Detr:
    net = detr.build(*options.size)
    if mode.startswith("qat"):
        fake_quantize.quantize(net, options.bits)
    net.freeze()  # after quantizing: step sizes of frozen layers would make the backward pass go down to the images
    net = net.to(options.device)
    if mode.startswith("qat"):
        fake_quantize.calibrate(net, images)
    return net.train()


def squares(logits: Tensor, boxes: Tensor) -> Tensor:
    return logits.square().mean() + boxes.square().mean()


def matmul(kind: str, options: argparse.Namespace) -> None:
    allow_tf32(False)
    n = options.matmul_size
    product = operands(kind, n, options.device)

    def step() -> None:
        for _ in range(PRODUCTS):
            product()

    ms = measure(step, options) / PRODUCTS
    tell(f"matmul-{kind}", options, ms=ms, n=n, tops=2 * n**3 / ms / 1e9)


def operands(kind: str, n: int, device: str) -> Callable[[], Tensor]:
    """A product of two n by n matrices, its operands made beforehand."""
    if kind == "int8":
        a, b = (torch.randint(-8, 8, (n, n), dtype=torch.int8, device=device) for _ in range(2))
        transposed = b.t()  # the layout that cuBLAS has integer kernels for
        return lambda: torch._int_mm(a, transposed)
    dtype = torch.float16 if kind == "fp16" else torch.float32
    a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
    return lambda: a @ b


def allow_tf32(allowed: bool) -> None:
    torch.backends.cuda.matmul.allow_tf32 = allowed
    torch.backends.cudnn.allow_tf32 = allowed


def measure(step: Callable[[], object], options: argparse.Namespace) -> float:
    sync = torch.cuda.synchronize if options.device == "cuda" else lambda: None
    return common.median_ms(step, options.runs, options.warmup, sync)


def reset_peak(device: str) -> None:
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()


def peak_gib(device: str) -> float | None:
    """The most that PyTorch's allocator had in use; it knows only the GPU's memory."""
    return torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else None


def image_fields(options: argparse.Namespace) -> dict[str, object]:
    height, width = options.size
    return {"batch": options.batch, "size": f"{height}x{width}"}


def tell(mode: str, options: argparse.Namespace, **figures: object) -> None:
    device = torch.cuda.get_device_name() if options.device == "cuda" else f"CPU ({platform.machine()})"
    common.report(peer="pytorch", version=torch.__version__, device=device, mode=mode, **figures)


if __name__ == "__main__":
    main()
