"""The published search steps, written plainly for comparison: what LightNAS search_imagenet.py does per batch.

As there (commit 2f0e1d1, PyTorch 1.7 habits): every layer is the sum over its operators of `one_hot_k *
operator_k(x)` for the chosen one and of the bare zero for the others; gradients are set to zero and kept, so every
candidate gets momentum and weight decay; clipping runs over all parameters; the architecture pass computes gradients
of all weights and updates running statistics.
"""

import torch
import torch.nn.functional as F
from torch import nn


class PublishedSupernet(nn.Module):
    """Same layers and shapes as `lightnas_edge.nn.Supernet`, in the published arrangement."""

    def __init__(self, space):
        super().__init__()
        self.stem = nn.Sequential(*_conv(3, space.stem_channels, 3, space.stem_stride))
        self.first = _InvertedResidual(space.stem_channels, space.first_channels, space.first_block, 1)
        self.layers = nn.ModuleList(
            nn.ModuleList(_operator(place, operator) for operator in space.operators) for place in space.layers
        )
        self.last = nn.Sequential(
            *_conv(space.layers[-1].out_channels, space.head_channels, 1, 1), nn.AdaptiveAvgPool2d(1)
        )
        self.classifier = nn.Sequential(
            nn.Linear(space.head_channels, space.feature_channels, bias=False),
            nn.ReLU6(inplace=True),
            nn.Dropout(space.dropout),
            nn.Linear(space.feature_channels, space.classes),
        )

    def forward(self, x, one_hot):
        x = self.first(self.stem(x))
        for weights, operators in zip(one_hot, self.layers, strict=True):
            x = sum(
                weight * operator(x) if weight > 0.5 else weight
                for weight, operator in zip(weights, operators, strict=True)
            )
        return self.classifier(self.last(x).flatten(1))


def gumbel_softmax(alpha, tau):
    noise = -torch.log(-torch.log(torch.rand_like(alpha)))
    soft = torch.softmax((torch.log(torch.softmax(alpha, -1)) + noise) / tau, -1)
    hard = torch.zeros_like(alpha).scatter_(-1, soft.argmax(-1, keepdim=True), 1.0)
    return hard - soft.detach() + soft


class PublishedLoop:
    def __init__(self, space, predictor, target_ms, device="cpu"):
        self.supernet = PublishedSupernet(space).to(device).train()
        self.alpha = (1e-3 * torch.randn(len(space.layers), len(space.operators), device=device)).requires_grad_()
        self.weights = torch.optim.SGD(self.supernet.parameters(), lr=0.1, momentum=0.9, weight_decay=3e-5)
        self.alphas = torch.optim.Adam([self.alpha], lr=1e-3, betas=(0.5, 0.999), weight_decay=1e-3)
        self.predictor, self.target_ms, self.tradeoff = predictor, target_ms, 0.0

    def weight_step(self, images, labels):
        return self._step(self.weights, images, labels, architecture=False)

    def architecture_step(self, images, labels):
        loss = self._step(self.alphas, images, labels, architecture=True)
        derived = torch.zeros_like(self.alpha).scatter_(-1, self.alpha.argmax(-1, keepdim=True), 1.0)
        latency = self.predictor(derived.detach().unsqueeze(0)).item()
        self.tradeoff += 0.0005 * (latency / self.target_ms - 1)
        if (latency > self.target_ms and self.tradeoff < 0) or (latency < self.target_ms and self.tradeoff > 0):
            self.tradeoff = 0.0
        return loss

    def _step(self, optimiser, images, labels, *, architecture):
        optimiser.zero_grad(set_to_none=False)
        one_hot = gumbel_softmax(self.alpha, 5.0)
        outputs = self.supernet(images, one_hot)
        loss = F.cross_entropy(outputs, labels, label_smoothing=0.1)
        if architecture:
            latency = self.predictor(one_hot.unsqueeze(0)).reshape(())
            (self.tradeoff * (latency / self.target_ms - 1)).backward(retain_graph=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.supernet.parameters(), 5.0)
        optimiser.step()
        return loss.item()


def _conv(in_channels, out_channels, kernel, stride, groups=1, act=True):
    convolution = nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False)
    norm = nn.BatchNorm2d(out_channels, affine=False)
    return [convolution, norm, nn.ReLU6(inplace=True)] if act else [convolution, norm]


class _InvertedResidual(nn.Module):
    def __init__(self, in_channels, out_channels, operator, stride):
        super().__init__()
        assert not operator.squeeze_excite, "never searched in the published code"
        hidden = in_channels * operator.expansion
        self.identity = stride == 1 and in_channels == out_channels
        self.main = nn.Sequential(
            *(_conv(in_channels, hidden, 1, 1) if operator.expansion > 1 else []),
            *_conv(hidden, hidden, operator.kernel, stride, groups=hidden),
            *_conv(hidden, out_channels, 1, 1, act=False),
        )

    def forward(self, x):
        return x + self.main(x) if self.identity else self.main(x)


def _operator(place, operator):
    if operator.kind != "skip":
        return _InvertedResidual(place.in_channels, place.out_channels, operator, place.stride)
    if place.keeps_shape:
        return nn.Identity()
    return nn.Sequential(*_conv(place.in_channels, place.out_channels, 1, place.stride))
