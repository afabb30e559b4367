"""Plain networks as people write them, exported by PyTorch with open axes."""

from __future__ import annotations

import warnings

import torch
from torch import nn


class _Residual(nn.Module):
    def __init__(self, inside, outside, stride):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inside, outside, 3, stride, 1, bias=False), nn.BatchNorm2d(outside), nn.ReLU(),
            nn.Conv2d(outside, outside, 3, 1, 1, bias=False), nn.BatchNorm2d(outside),
        )  # fmt: skip
        same = inside == outside and stride == 1
        self.short = (
            nn.Identity() if same else nn.Sequential(nn.Conv2d(inside, outside, 1, stride), nn.BatchNorm2d(outside))
        )

    def forward(self, x):
        return torch.relu(self.body(x) + self.short(x))


def resnet():
    """Four stages, one block each."""
    return nn.Sequential(
        nn.Conv2d(3, 32, 7, 2, 3), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(3, 2, 1),
        _Residual(32, 32, 1), _Residual(32, 64, 2), _Residual(64, 128, 2), _Residual(128, 256, 2),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(256, 100),
    )  # fmt: skip


def _separable(inside, outside, stride):
    return [
        nn.Conv2d(inside, inside, 3, stride, 1, groups=inside, bias=False), nn.BatchNorm2d(inside), nn.ReLU6(),
        nn.Conv2d(inside, outside, 1, bias=False), nn.BatchNorm2d(outside), nn.ReLU6(),
    ]  # fmt: skip


def mobilenet():
    """Depthwise and pointwise convolutions, five times."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU6(),
        *_separable(16, 32, 1), *_separable(32, 64, 2), *_separable(64, 64, 1), *_separable(64, 128, 2), *_separable(128, 128, 1),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 100),
    )  # fmt: skip


class _Block(nn.Module):
    """Attention with four heads, then two linear layers, each added to its input."""

    def __init__(self, width):
        super().__init__()
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x, mask):
        batch, length, width = x.shape
        # nn.MultiheadAttention writes the length of the example into the exported graph; these sizes stay open.
        q, k, v = self.qkv(self.first(x)).view(batch, length, 3, 4, width // 4).permute(2, 0, 3, 1, 4).unbind(0)
        weights = torch.softmax(q @ k.transpose(-1, -2) * (width // 4) ** -0.5 + mask, -1)
        x = x + self.out((weights @ v).transpose(1, 2).reshape(batch, length, width))
        return x + self.mlp(self.second(x))


class Transformer(nn.Module):
    """Token ids and a mask to logits: two inputs, axes with names."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(1000, 64)
        self.blocks = nn.ModuleList(_Block(64) for _ in range(2))
        self.head = nn.Linear(64, 10)

    def forward(self, input_ids, attention_mask):
        mask = (1 - attention_mask[:, None, None, :].float()) * -1e4
        x = self.embedding(input_ids)
        for block in self.blocks:
            x = block(x, mask)
        return self.head(x)


def export(name, path):
    """`resnet` and `mobilenet` with an open batch, `transformer` with an open batch and length."""
    torch.manual_seed(0)
    network = {"resnet": resnet, "mobilenet": mobilenet, "transformer": Transformer}[name]().eval()
    if name == "transformer":
        example = (torch.zeros(1, 16, dtype=torch.int64), torch.ones(1, 16, dtype=torch.int64))
        names = ["input_ids", "attention_mask"]
        axes = {each: {0: "batch", 1: "length"} for each in (*names, "logits")}
    else:
        example, names = (torch.zeros(1, 3, 224, 224),), ["images"]
        axes = {each: {0: "batch"} for each in (*names, "logits")}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter announces its successor, which needs further packages
        torch.onnx.export(
            network, example, path, dynamo=False, opset_version=17, input_names=names, output_names=["logits"],
            dynamic_axes=axes,
        )  # fmt: skip
    return network
