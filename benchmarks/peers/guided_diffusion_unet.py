"""The UNet of guided-diffusion, and the classifier that guides it, in plain PyTorch modules.

Structure and parameter names are those of openai/guided-diffusion (guided_diffusion/unet.py, MIT) with its defaults: class
condition, no scale-shift norm, resampling by convolutions, attention with heads split first. Written for benchmarks, on which
every operator counts: norms and softmax go through float32 and attention is two products, as there. The classifier is the one
that upstream builds by default for images of 256 pixels, with scale-shift norm and resampling in residual blocks.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn


class Norm(nn.GroupNorm):
    native = False  # whether half types are left to PyTorch's operator, which computes in float32 inside

    def __init__(self, channels):
        super().__init__(32, channels)

    def forward(self, x):
        return super().forward(x) if self.native else super().forward(x.float()).type(x.dtype)


def in_bfloat16(network, native_norms=False):
    """The network rounded to bfloat16, but for its norms, unless they are native ones."""
    for module in network.modules():
        if isinstance(module, Norm):
            module.native = native_norms
        if not isinstance(module, Norm) or native_norms:
            for parameter in module.parameters(recurse=False):
                parameter.data = parameter.data.to(torch.bfloat16)
    return network


def embedded(timesteps, width):
    """Sines and cosines of timesteps."""
    half = width // 2
    exponents = torch.arange(half, dtype=torch.float32, device=timesteps.device) / half
    angles = timesteps[:, None].float() * torch.exp(-math.log(10000) * exponents)[None]
    return torch.cat([torch.cos(angles), torch.sin(angles)], dim=-1)


class ResidualBlock(nn.Module):
    def __init__(self, inputs, outputs, embedding):
        super().__init__()
        self.in_layers = nn.Sequential(Norm(inputs), nn.SiLU(), nn.Conv2d(inputs, outputs, 3, padding=1))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(embedding, outputs))
        self.out_layers = nn.Sequential(Norm(outputs), nn.SiLU(), nn.Dropout(0.0),
                                        nn.Conv2d(outputs, outputs, 3, padding=1))
        self.skip_connection = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)

    def forward(self, x, embedding):
        h = self.in_layers(x) + self.emb_layers(embedding).type(x.dtype)[..., None, None]
        return self.skip_connection(x) + self.out_layers(h)


class ScaleShiftBlock(nn.Module):
    """A residual block in which the embedding scales and shifts the second norm; `down` halves the image on the way."""

    def __init__(self, inputs, outputs, embedding, down=False):
        super().__init__()
        self.down = down
        self.in_layers = nn.Sequential(Norm(inputs), nn.SiLU(), nn.Conv2d(inputs, outputs, 3, padding=1))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(embedding, 2 * outputs))
        self.out_layers = nn.Sequential(Norm(outputs), nn.SiLU(), nn.Dropout(0.0),
                                        nn.Conv2d(outputs, outputs, 3, padding=1))
        self.skip_connection = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)

    def forward(self, x, embedding):
        h = self.in_layers[:-1](x)
        if self.down:
            h, x = F.avg_pool2d(h, 2), F.avg_pool2d(x, 2)
        h = self.in_layers[-1](h)
        scale, shift = self.emb_layers(embedding).type(h.dtype)[..., None, None].chunk(2, dim=1)
        h = self.out_layers[0](h) * (1 + scale) + shift
        return self.skip_connection(x) + self.out_layers[1:](h)


def attended(qkv, heads):
    """Of queries, keys and values of all heads [B, 3 * channels, T]: [B, channels, T]."""
    batch, channels, length = qkv.shape
    width = channels // (3 * heads)
    q, k, v = qkv.reshape(batch * heads, 3 * width, length).split(width, dim=1)
    scale = 1 / math.sqrt(math.sqrt(width))
    scores = torch.einsum("bct,bcs->bts", q * scale, k * scale)
    scores = torch.softmax(scores.float(), dim=-1).type(scores.dtype)
    return torch.einsum("bts,bcs->bct", scores, v).reshape(batch, channels // 3, length)


class AttentionBlock(nn.Module):
    def __init__(self, channels, heads):
        super().__init__()
        self.heads = heads
        self.norm = Norm(channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = nn.Conv1d(channels, channels, 1)

    def forward(self, x):
        batch, channels, *sides = x.shape
        x = x.reshape(batch, channels, -1)
        h = attended(self.qkv(self.norm(x)), self.heads)
        return (x + self.proj_out(h)).reshape(batch, channels, *sides)


class AttentionPool(nn.Module):
    """What the mean over all positions attends to."""

    def __init__(self, side, channels, heads, outputs):
        super().__init__()
        self.heads = heads
        self.positional_embedding = nn.Parameter(torch.randn(channels, side * side + 1) / math.sqrt(channels))
        self.qkv_proj = nn.Conv1d(channels, 3 * channels, 1)
        self.c_proj = nn.Conv1d(channels, outputs, 1)

    def forward(self, x):
        x = x.flatten(2)
        x = torch.cat([x.mean(dim=-1, keepdim=True), x], dim=-1) + self.positional_embedding.type(x.dtype)
        return self.c_proj(attended(self.qkv_proj(x), self.heads))[:, :, 0]


class Downsample(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.op = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x):
        return self.op(x)


class Upsample(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x):
        return self.conv(F.interpolate(x, scale_factor=2, mode="nearest"))


class Block(nn.Sequential):
    """Layers of which the residual ones are told timestep and class."""

    def forward(self, x, embedding):
        for layer in self:
            x = layer(x, embedding) if isinstance(layer, (ResidualBlock, ScaleShiftBlock)) else layer(x)
        return x


class UNet(nn.Module):
    def __init__(self, size, base, multipliers, attention=(16, 8), heads=4, blocks=2, inputs=1, outputs=2, classes=15):
        """attention: sides of the feature maps that attend, in pixels."""
        super().__init__()
        self.base = base
        embedding = 4 * base
        self.time_embed = nn.Sequential(nn.Linear(base, embedding), nn.SiLU(), nn.Linear(embedding, embedding))
        self.label_emb = nn.Embedding(classes, embedding)
        widths = [base * multiplier for multiplier in multipliers]

        width, side = widths[0], size
        self.input_blocks = nn.ModuleList([Block(nn.Conv2d(inputs, width, 3, padding=1))])
        skips = [width]

        def layers(joined, out):
            yield ResidualBlock(joined, out, embedding)
            if side in attention:
                yield AttentionBlock(out, heads)

        for level, out in enumerate(widths):
            for _ in range(blocks):
                self.input_blocks.append(Block(*layers(width, out)))
                width = out
                skips.append(width)
            if level + 1 < len(widths):
                self.input_blocks.append(Block(Downsample(width)))
                skips.append(width)
                side //= 2
        self.middle_block = Block(ResidualBlock(width, width, embedding), AttentionBlock(width, heads),
                                  ResidualBlock(width, width, embedding))
        self.output_blocks = nn.ModuleList()
        for level, out in reversed(list(enumerate(widths))):
            for i in range(blocks + 1):
                block = list(layers(width + skips.pop(), out))
                width = out
                if level > 0 and i == blocks:
                    block.append(Upsample(width))
                    side *= 2
                self.output_blocks.append(Block(*block))
        self.out = nn.Sequential(Norm(width), nn.SiLU(), nn.Conv2d(width, outputs, 3, padding=1))

    def forward(self, x, timesteps, classes):
        own = self.out[2].weight.dtype
        embedding = self.time_embed(embedded(timesteps, self.base).type(own)) + self.label_emb(classes)
        given, x = x.dtype, x.type(own)
        kept = []
        for block in self.input_blocks:
            x = block(x, embedding)
            kept.append(x)
        x = self.middle_block(x, embedding)
        for block in self.output_blocks:
            x = block(torch.cat([x, kept.pop()], dim=1), embedding)
        return self.out(x).type(given)


class Classifier(nn.Module):
    """Logits of a noisy image: the way down of such a network, then attention pooling."""

    def __init__(self, size, base=32, multipliers=(1, 1, 2, 2, 4, 4), attention=(32, 16, 8), blocks=4, inputs=1, outputs=7):
        """attention: sides of the feature maps that attend, in pixels, with heads of 64 channels."""
        super().__init__()
        self.base = base
        embedding = 4 * base
        self.time_embed = nn.Sequential(nn.Linear(base, embedding), nn.SiLU(), nn.Linear(embedding, embedding))
        width, side = base * multipliers[0], size
        self.input_blocks = nn.ModuleList([Block(nn.Conv2d(inputs, width, 3, padding=1))])
        for level, multiplier in enumerate(multipliers):
            for _ in range(blocks):
                layers = [ScaleShiftBlock(width, base * multiplier, embedding)]
                width = base * multiplier
                if side in attention:
                    layers.append(AttentionBlock(width, width // 64))
                self.input_blocks.append(Block(*layers))
            if level + 1 < len(multipliers):
                self.input_blocks.append(Block(ScaleShiftBlock(width, width, embedding, down=True)))
                side //= 2
        self.middle_block = Block(ScaleShiftBlock(width, width, embedding), AttentionBlock(width, width // 64),
                                  ScaleShiftBlock(width, width, embedding))
        self.out = nn.Sequential(Norm(width), nn.SiLU(), AttentionPool(side, width, width // 64, outputs))

    def forward(self, x, timesteps):
        own = self.out[2].c_proj.weight.dtype
        embedding = self.time_embed(embedded(timesteps, self.base).type(own))
        x = x.type(own)
        for block in (*self.input_blocks, self.middle_block):
            x = block(x, embedding)
        return self.out(x).float()
