"""Convolutions whose kernel is larger than the map: the gradients of PyTorch."""

import itertools

import pytest
import torch
import torch.nn.functional as F

from lightnas_edge.nn.convolution import Conv2d

CASES = [
    (kernel, height, width, stride)
    for kernel, height, width, stride in itertools.product((3, 5, 7), (1, 2, 3, 4, 6), (1, 2, 5), (1, 2))
    if kernel > min(height, width)
]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("case", CASES, ids=lambda case: "k{}-{}x{}-s{}".format(*case))
def test_the_gradients_are_those_of_pytorch(case, layout):
    kernel, height, width, stride = case
    generator = torch.Generator().manual_seed(0)
    conv = Conv2d(5, 5, kernel, stride, kernel // 2, groups=5, bias=False).double()
    x = torch.randn(3, 5, height, width, dtype=torch.double, generator=generator)
    x = x.contiguous(memory_format=layout).requires_grad_()
    known, weight = x.detach().clone().requires_grad_(), conv.weight.detach().clone().requires_grad_()
    expected = F.conv2d(known, weight, None, stride, kernel // 2, groups=5)
    factor = torch.randn(expected.shape, dtype=torch.double, generator=generator)
    (expected * factor).sum().backward()

    found = conv(x)
    (found * factor).sum().backward()

    assert type(found.grad_fn).__name__ == "_DepthwiseBackward"
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    torch.testing.assert_close(x.grad, known.grad)
    torch.testing.assert_close(conv.weight.grad, weight.grad)


def test_the_input_may_have_no_gradient():
    conv = Conv2d(4, 4, 5, 1, 2, groups=4, bias=False)
    conv(torch.randn(2, 4, 3, 3)).sum().backward()

    assert conv.weight.grad is not None


def test_with_autocast_pytorch_computes_it():
    conv = Conv2d(4, 4, 5, 1, 2, groups=4, bias=False)
    with torch.autocast("cpu", torch.bfloat16):
        result = conv(torch.randn(2, 4, 3, 3, requires_grad=True))
    result.float().sum().backward()

    assert result.dtype == torch.bfloat16 and conv.weight.grad is not None and conv.weight.grad.dtype == torch.float32


@pytest.mark.parametrize("channels, groups, side", [(4, 4, 8), (4, 1, 2), (4, 2, 2)])
def test_other_convolutions_are_those_of_pytorch(channels, groups, side):
    conv = Conv2d(channels, channels, 5, 1, 2, groups=groups, bias=False)

    assert type(conv(torch.randn(2, channels, side, side)).grad_fn).__name__ == "ConvolutionBackward0"
    assert Conv2d(4, 4, 5, 1, 2, groups=4, bias=False).requires_grad_(False)(torch.randn(2, 4, 2, 2)).grad_fn is None
