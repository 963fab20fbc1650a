"""The UNet of guided-diffusion in plain PyTorch modules.

Structure and parameter names are those of openai/guided-diffusion (guided_diffusion/unet.py, MIT) with its defaults: class
condition, no scale-shift norm, resampling by convolutions, attention with heads split first. Written for benchmarks, on which
every operator counts: norms and softmax go through float32 and attention is two products, as there.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn


class Norm(nn.GroupNorm):
    def __init__(self, channels):
        super().__init__(32, channels)

    def forward(self, x):
        return super().forward(x.float()).type(x.dtype)


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


class AttentionBlock(nn.Module):
    def __init__(self, channels, heads):
        super().__init__()
        self.heads = heads
        self.norm = Norm(channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = nn.Conv1d(channels, channels, 1)

    def forward(self, x):
        batch, channels, *sides = x.shape
        width = channels // self.heads
        x = x.reshape(batch, channels, -1)
        q, k, v = self.qkv(self.norm(x)).reshape(batch * self.heads, 3 * width, -1).split(width, dim=1)
        scale = 1 / math.sqrt(math.sqrt(width))
        scores = torch.einsum("bct,bcs->bts", q * scale, k * scale)
        scores = torch.softmax(scores.float(), dim=-1).type(scores.dtype)
        h = torch.einsum("bts,bcs->bct", scores, v).reshape(batch, channels, -1)
        return (x + self.proj_out(h)).reshape(batch, channels, *sides)


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
            x = layer(x, embedding) if isinstance(layer, ResidualBlock) else layer(x)
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

    def embed(self, timesteps):
        half = self.base // 2
        frequencies = torch.exp(-math.log(10000) * torch.arange(half, dtype=torch.float32) / half)
        angles = timesteps[:, None].float() * frequencies[None]
        return torch.cat([torch.cos(angles), torch.sin(angles)], dim=-1)

    def forward(self, x, timesteps, classes):
        embedding = self.time_embed(self.embed(timesteps)) + self.label_emb(classes)
        kept = []
        for block in self.input_blocks:
            x = block(x, embedding)
            kept.append(x)
        x = self.middle_block(x, embedding)
        for block in self.output_blocks:
            x = block(torch.cat([x, kept.pop()], dim=1), embedding)
        return self.out(x)
