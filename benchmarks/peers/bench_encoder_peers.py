#!/usr/bin/env python3
"""The image towers of bench_encoder in PyTorch: ViT-B/32 by open_clip, ResNet-50 and DenseNet-121 by torchvision.

    python3 -m venv venv && venv/bin/pip install torch torchvision safetensors open_clip_torch
    DAUG_PEER_FILES=/tmp/peers build/benchmarks/bench_encoder --benchmark_filter=forward_16
    venv/bin/python benchmarks/peers/bench_encoder_peers.py --files /tmp/peers

Compare with forward_16 of bench_encoder, run just before or after: 16 images of 256 x 256, with 3 and with 3 + 7 channels in
one first convolution, eager. The vision transformer has our weights, and its output is compared with ours first; the
convolutional networks' weights are random, since none of their operations takes a time that depends on them.
"""

import peer

torch = peer.torch_with_threads()

import open_clip  # noqa: E402
import torchvision  # noqa: E402
from open_clip.transformer import QuickGELU, VisionTransformer  # noqa: E402

IMAGES, SIDE, EMBED = 16, 256, 512


def widen(model, path, channels):
    for name in path[:-1]:
        model = getattr(model, name)
    old = getattr(model, path[-1])
    setattr(model, path[-1], torch.nn.Conv2d(channels, old.out_channels, old.kernel_size, old.stride, old.padding,
                                             bias=old.bias is not None))


def towers(files):
    """Names as in bench_encoder, models, the way to their first convolution, and where our weights are."""
    vit = VisionTransformer(SIDE, 32, 768, 12, 12, 4.0, act_layer=QuickGELU, output_dim=EMBED)
    yield "vit_b_32", vit, ["conv1"], files
    yield "resnet_50", torchvision.models.resnet50(num_classes=EMBED), ["conv1"], None
    yield "densenet_121", torchvision.models.densenet121(num_classes=EMBED), ["features", "conv0"], None


def load_ours(model, files, name):
    prefix = "visual."
    weights = peer.load(files, f"{name}.weights")
    model.load_state_dict({key[len(prefix):]: value for key, value in weights.items() if key.startswith(prefix)})
    return peer.load(files, f"{name}.io")


def main():
    parser = peer.parser(__doc__.splitlines()[0])
    parser.add_argument("--towers", nargs="+", default=["vit_b_32", "resnet_50", "densenet_121"])
    arguments = parser.parse_args()
    results = peer.Results(arguments, torch=torch.__version__, threads=torch.get_num_threads(),
                           open_clip=open_clip.__version__, torchvision=torchvision.__version__)
    for name, model, first, files in towers(arguments.files):
        if name not in arguments.towers:
            continue
        for maps in (0, 7):
            widen(model, first, 3 + maps)
            model.eval()
            given = load_ours(model, files, f"{name}_{3 + maps}") if files else None
            x = given["x"] if given else torch.randn(IMAGES, 3 + maps, SIDE, SIDE)
            row = f"forward_16/{name}/maps:{maps}/pytorch"
            with torch.inference_mode():
                if given:
                    peer.require_close(row, model(x), given["output"], 1e-4)
                results.measure({row: lambda: model(x)})


if __name__ == "__main__":
    main()
