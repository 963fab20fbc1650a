"""ResNets and DenseNets between daug and torchvision.

    load_torchvision.py WEIGHTS EXPECTED [NAME]           loads what daug wrote, and compares outputs
    load_torchvision.py --write WEIGHTS EXPECTED NAME     writes a model for daug to load, and its outputs

NAME is one of torchvision's builders, such as resnet18; without it the layout is read off the keys. EXPECTED
(safetensors): x, y (logits) and, if wanted, features (what the classifier reads), all computed in float64: batch norm
of channels that hardly vary makes rounding errors of float32 grow from block to block. Exit status 0 when all is well,
77 when a package is missing.
"""
import sys

try:
    import torch
    import torchvision
    from safetensors.torch import load_file, save_file
except (ImportError, OSError) as error:
    print(error)
    sys.exit(77)


def resnet(weights):
    from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

    blocks = [len({key.split(".")[1] for key in weights if key.startswith(f"layer{i}.")}) for i in (1, 2, 3, 4)]
    block = Bottleneck if "layer1.0.conv3.weight" in weights else BasicBlock
    model = ResNet(block, blocks, num_classes=len(weights["fc.bias"]))
    channels = weights["conv1.weight"].shape[1]
    if channels != 3:
        model.conv1 = torch.nn.Conv2d(channels, 64, 7, 2, 3, bias=False)
    return model


def densenet(weights):
    from torchvision.models import DenseNet

    layers = [len({key.split(".")[2] for key in weights if key.startswith(f"features.denseblock{i}.")})
              for i in (1, 2, 3, 4)]
    first, layer = weights["features.conv0.weight"], "features.denseblock1.denselayer1."
    growth = len(weights[layer + "conv2.weight"])
    model = DenseNet(growth, layers, len(first), len(weights[layer + "conv1.weight"]) // growth,
                     num_classes=len(weights["classifier.bias"]))
    if first.shape[1] != 3:
        model.features.conv0 = torch.nn.Conv2d(first.shape[1], len(first), 7, 2, 3, bias=False)
    return model


def published(name, classes):
    return getattr(torchvision.models, name)(weights=None, num_classes=classes)


def outputs(model, x):
    """Logits and features, in float64 as x."""
    head = "fc" if hasattr(model, "fc") else "classifier"
    model.double().eval()
    with torch.no_grad():
        y = model(x)
        setattr(model, head, torch.nn.Identity())
        return {"y": y, "features": model(x)}


def write(weights, expected, name):
    torch.manual_seed(0)
    model, x = published(name, 7), torch.randn(2, 3, 64, 64, dtype=torch.float64)
    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    with torch.no_grad():
        for norm in norms:  # running statistics near those of activations, or these would grow from block to block
            norm.momentum = 1.0
            norm.weight.uniform_(0.5, 1.5)
            norm.bias.uniform_(-0.3, 0.3)
        model.train()(torch.randn(8, 3, 64, 64))
    save_file({key: value.clone().contiguous() for key, value in model.state_dict().items()}, weights)
    save_file({"x": x, **{key: value.contiguous() for key, value in outputs(model, x).items()}}, expected)
    print(f"torchvision {torchvision.__version__}: wrote {name}")


if sys.argv[1] == "--write":
    write(*sys.argv[2:])
    sys.exit(0)

weights, expected = load_file(sys.argv[1]), load_file(sys.argv[2])
if len(sys.argv) > 3:
    model = published(sys.argv[3], len(expected["y"][0]))
else:
    model = (resnet if "conv1.weight" in weights else densenet)(weights)
model.load_state_dict(weights, strict=True)
found = outputs(model, expected["x"])
worst = float(torch.stack([(found[key] - expected[key]).abs().max() / (1 + expected[key].abs().max())
                           for key in found if key in expected]).max())
print(f"torchvision {torchvision.__version__}: largest difference {worst:.3g}")
sys.exit(0 if worst < 1e-10 else 1)
