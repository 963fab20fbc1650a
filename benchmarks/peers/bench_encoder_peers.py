#!/usr/bin/env python3
"""The image towers of bench_encoder in PyTorch: ViT-B/32 by open_clip, ResNet-50 and DenseNet-121 by torchvision.

    python3 -m venv venv && venv/bin/pip install torch torchvision open_clip_torch
    OMP_NUM_THREADS=2 venv/bin/python benchmarks/peers/bench_encoder_peers.py

Compare with forward_16 of bench_encoder, run just before or after: 16 images of 256 x 256, with 3 and with 3 + 7 channels in
one first convolution, eager. Without open_clip the same transformer is made of torch's own modules. Weights are random;
none of these operations takes a time that depends on them.
"""

import argparse
import time

import torch

IMAGES, SIDE, EMBED = 16, 256, 512


class TorchViT(torch.nn.Module):
    """ViT-B/32 of torch.nn's encoder layers, for want of open_clip."""

    def __init__(self, width=768, patch=32):
        super().__init__()
        self.conv1 = torch.nn.Conv2d(3, width, patch, patch, bias=False)
        self.class_embedding = torch.nn.Parameter(torch.randn(width))
        self.positions = torch.nn.Parameter(torch.randn((SIDE // patch) ** 2 + 1, width))
        self.before, self.after = torch.nn.LayerNorm(width), torch.nn.LayerNorm(width)
        layer = torch.nn.TransformerEncoderLayer(width, 12, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True)
        self.layers = torch.nn.TransformerEncoder(layer, 12, enable_nested_tensor=False)
        self.projection = torch.nn.Linear(width, EMBED, bias=False)

    def forward(self, x):
        patches = self.conv1(x).flatten(2).transpose(1, 2)
        first = self.class_embedding.expand(len(x), 1, -1)
        tokens = self.before(torch.cat([first, patches], 1) + self.positions)
        return self.projection(self.after(self.layers(tokens)[:, 0]))


def vit():
    try:
        from open_clip import __version__
        from open_clip.transformer import QuickGELU, VisionTransformer
    except ImportError:
        return "ViT-B/32, torch.nn", TorchViT(), ["conv1"]
    model = VisionTransformer(SIDE, 32, 768, 12, 12, 4.0, act_layer=QuickGELU, output_dim=EMBED)
    return f"ViT-B/32, open_clip {__version__}", model, ["conv1"]


def convolutional():
    try:
        import torchvision
    except ImportError:
        return
    name = f"torchvision {torchvision.__version__}"
    yield f"ResNet-50, {name}", torchvision.models.resnet50(num_classes=EMBED), ["conv1"]
    yield f"DenseNet-121, {name}", torchvision.models.densenet121(num_classes=EMBED), ["features", "conv0"]


def widen(model, path, channels):
    for name in path[:-1]:
        model = getattr(model, name)
    old = getattr(model, path[-1])
    setattr(model, path[-1], torch.nn.Conv2d(channels, old.out_channels, old.kernel_size, old.stride, old.padding,
                                             bias=old.bias is not None))


def median_seconds(model, channels, repeats):
    x = torch.randn(IMAGES, channels, SIDE, SIDE)
    times = []
    with torch.inference_mode():
        for _ in range(repeats + 1):
            start = time.perf_counter()
            model(x)
            times.append(time.perf_counter() - start)
    return sorted(times[1:])[repeats // 2]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=10)
    arguments = parser.parse_args()
    for name, model, first in [vit(), *convolutional()]:
        model.eval()
        for channels in (3, 10):
            widen(model, first, channels)
            took = median_seconds(model, channels, arguments.repeats)
            print(f"{name} (torch {torch.__version__}, {torch.get_num_threads()} threads): {IMAGES} x {channels} x {SIDE}^2: "
                  f"{1e3 * took:.0f} ms")


if __name__ == "__main__":
    main()
