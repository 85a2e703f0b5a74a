"""The modules that are one linear map, known by heart: they may give way to a factored layer as they are.

Exactly these classes, with nothing of a user's in them: no ``forward`` or compiled call of the instance's own, no state
besides weight and bias. Subclasses, patched and furnished instances keep what they are, and their weight is adopted.
"""

from __future__ import annotations

from torch import nn

from kronfx.layers import Convolution

LINEAR = (nn.Linear,)
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def is_known(owner: nn.Module) -> bool:
    """Whether a module is one linear map of its input by its ``weight``, plus its ``bias``, and nothing else."""
    if type(owner) in CONVOLUTIONS:
        plain = bool(owner.groups == 1 and owner.padding_mode == "zeros")
    else:
        plain = type(owner) in LINEAR
    patched = "forward" in vars(owner) or vars(owner).get("_compiled_call_impl") is not None
    furnished = owner._buffers or owner._modules or set(owner._parameters) != {"weight", "bias"}
    return plain and not (patched or furnished)


def convolution_of(owner: nn.Module) -> Convolution | None:
    """What kind of convolution a known module is, if it is one."""
    if not isinstance(owner, nn.modules.conv._ConvNd):
        return None
    stride, padding, dilation = owner.stride, owner.padding, owner.dilation
    return Convolution.of(owner.kernel_size, stride, padding, dilation)
