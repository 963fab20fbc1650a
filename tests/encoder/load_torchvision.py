"""Loads a ResNet or DenseNet that daug wrote into torchvision's model and compares outputs with daug's own.

    load_torchvision.py WEIGHTS EXPECTED

EXPECTED (safetensors): x, y. Exit status 0 when they agree, 77 when a package is missing.
"""
import sys

try:
    import torch
    import torchvision
    from safetensors.torch import load_file
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


weights, expected = load_file(sys.argv[1]), load_file(sys.argv[2])
model = (resnet if "conv1.weight" in weights else densenet)(weights)
model.load_state_dict(weights, strict=True)
model.eval()
with torch.no_grad():
    difference = model(expected["x"]) - expected["y"]
worst = float(difference.abs().max() / (1 + expected["y"].abs().max()))
print(f"torchvision {torchvision.__version__}: largest difference {worst:.3g}")
sys.exit(0 if worst < 1e-5 else 1)
