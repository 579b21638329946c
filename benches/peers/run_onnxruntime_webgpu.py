"""Times ONNX Runtime's WebGPU execution provider on DETR-R50, exported from PyTorch to a temporary folder.

A run has its images in host memory and its results too, as `InferenceSession.run` does it.
"""

import argparse
import platform
import sys
import tempfile
from pathlib import Path

import torch

import common
import detr

try:
    import onnxruntime
except ImportError as missing:
    sys.exit(f"{missing}: pip install onnxruntime-webgpu (not beside another onnxruntime package)")

PROVIDERS = {"WebGPU": "WebGpuExecutionProvider", "CPU": "CPUExecutionProvider"}


def main() -> None:
    options = arguments()
    height, width = options.size
    net, images = detr.build(height, width), detr.random_images(options.batch, height, width)
    with torch.inference_mode():
        reference = net(images)[0]
    if options.precision == "fp16":
        net, images = net.half(), images.half()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "detr.onnx"
        export(net, images, path, options.exporter)
        session = open_session(path, PROVIDERS[options.provider])
    feed = {"images": images.numpy()}
    ms = common.median_ms(lambda: session.run(None, feed), options.runs, options.warmup)
    logits = torch.from_numpy(session.run(None, feed)[0]).float()
    common.report(
        peer="onnxruntime",
        version=onnxruntime.__version__,
        device=options.device_name or f"not named ({platform.machine()})",
        provider=options.provider,
        mode=options.precision,
        batch=options.batch,
        size=f"{height}x{width}",
        ms=ms,
        max_difference_of_logits=(logits - reference).abs().max().item(),
    )


def arguments() -> argparse.Namespace:
    options = common.parser(__doc__)
    options.add_argument("--provider", choices=PROVIDERS, default="WebGPU")
    options.add_argument("--precision", choices=("fp32", "fp16"), default="fp32")
    options.add_argument("--exporter", choices=("dynamo", "torchscript"), default="dynamo")
    # ONNX Runtime does not tell which adapter its WebGPU provider took.
    options.add_argument("--device-name", help="what to call the GPU in the result")
    parsed = options.parse_args()
    name = PROVIDERS[parsed.provider]
    if name not in onnxruntime.get_available_providers():
        options.error(f"this onnxruntime has no {name}: pip uninstall it, then pip install onnxruntime-webgpu")
    return parsed


def export(net: detr.Detr, images: torch.Tensor, path: Path, exporter: str) -> None:
    torch.onnx.export(
        net,
        (images,),
        str(path),
        input_names=["images"],
        output_names=["logits", "boxes"],
        opset_version=18,
        verbose=False,
        dynamo=exporter == "dynamo",
    )


def open_session(path: Path, provider: str) -> onnxruntime.InferenceSession:
    """The CPU stands behind the provider for operators that it lacks; without the provider itself there is no figure."""
    providers = list(dict.fromkeys((provider, "CPUExecutionProvider")))
    session = onnxruntime.InferenceSession(str(path), providers=providers)
    if provider not in session.get_providers():
        sys.exit(f"{provider} did not start: it needs a GPU and its driver (Vulkan, Metal or Direct3D 12)")
    return session


if __name__ == "__main__":
    main()
