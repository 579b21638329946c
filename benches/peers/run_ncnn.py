"""Times ncnn with Vulkan on DETR-R50, converted from PyTorch by pnnx in a temporary folder.

ncnn has no batch axis; a batch is as many runs, one after the other. A run has its image in host memory and its results too.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

import common
import detr

try:
    import ncnn
    import pnnx
except ImportError as missing:
    sys.exit(f"{missing}: pip install ncnn pnnx")


def main() -> None:
    options = arguments()
    height, width = options.size
    net, images = detr.build(height, width), detr.random_images(options.batch, height, width)
    with torch.inference_mode():
        reference = net(images)[0]
    with tempfile.TemporaryDirectory() as folder:
        convert(net, images[:1], Path(folder))
        for precision in options.precisions:
            time_one(precision, load(Path(folder), precision, options), images, reference, options)


def arguments() -> argparse.Namespace:
    options = common.parser(__doc__)
    options.add_argument("--device", choices=("vulkan", "cpu"), default="vulkan")
    options.add_argument("--precisions", nargs="+", choices=("fp32", "fp16"), default=["fp32", "fp16"])
    parsed = options.parse_args()
    if parsed.device == "vulkan" and ncnn.get_gpu_count() == 0:
        options.error("ncnn finds no Vulkan device; --device cpu runs the same network")
    return parsed


def convert(net: detr.Detr, image: torch.Tensor, folder: Path) -> None:
    """Writes detr.ncnn.param and detr.ncnn.bin. Weights stay fp32 in the file; the precision is chosen when it is loaded."""
    traced = folder / "detr.pt"
    with torch.no_grad():
        torch.jit.trace(net, image, check_trace=False).save(str(traced))
    shape = ",".join(str(extent) for extent in image.shape)
    command = [pnnx.EXEC_PATH, traced.name, f"inputshape=[{shape}]", "fp16=0"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode != 0 or not (folder / "detr.ncnn.bin").exists():
        sys.exit(f"pnnx failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")


def load(folder: Path, precision: str, options: argparse.Namespace) -> ncnn.Net:
    half = precision == "fp16"
    net = ncnn.Net()
    net.opt.use_vulkan_compute = options.device == "vulkan"
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = half
    if net.load_param(str(folder / "detr.ncnn.param")) or net.load_model(str(folder / "detr.ncnn.bin")):
        sys.exit("ncnn does not load what pnnx wrote")
    return net


def time_one(
    precision: str, net: ncnn.Net, images: torch.Tensor, reference: torch.Tensor, options: argparse.Namespace
) -> None:
    inputs = [ncnn.Mat(image.numpy()).clone() for image in images]

    def step() -> list[ncnn.Mat]:
        return [run(net, image) for image in inputs]

    ms = common.median_ms(step, options.runs, options.warmup)
    logits = torch.stack([torch.from_numpy(output.numpy().copy()) for output in step()])
    height, width = options.size
    common.report(
        peer="ncnn",
        version=ncnn.__version__,
        device=ncnn.get_gpu_info().device_name() if options.device == "vulkan" else "CPU",
        mode=precision,
        batch=options.batch,
        size=f"{height}x{width}",
        ms=ms,
        max_difference_of_logits=(logits.reshape(reference.shape) - reference).abs().max().item(),
    )


def run(net: ncnn.Net, image: ncnn.Mat) -> ncnn.Mat:
    """The logits of one image; boxes are computed and dropped."""
    extractor = net.create_extractor()
    extractor.input("in0", image)
    logits = extractor.extract("out0")[1]
    extractor.extract("out1")
    return logits


if __name__ == "__main__":
    main()
