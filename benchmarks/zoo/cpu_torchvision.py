"""Import torchvision (and so timm) beside a CPU-only torch.

The registries carry torchvision only in a build whose compiled operators need CUDA; importing it fails at the
registration of their fake kernels. Classification networks use none of those operators, so the registrations may pass.
"""

import torch

_register_fake = torch.library.register_fake


def _register_all_but_torchvision(op, *args, **kwargs):
    if isinstance(op, str) and op.startswith("torchvision::"):
        return lambda kernel: kernel
    return _register_fake(op, *args, **kwargs)


torch.library.register_fake = _register_all_but_torchvision
try:
    import torchvision
finally:
    torch.library.register_fake = _register_fake

models = torchvision.models
