"""What networks without a first layer of their own expect to be given."""

from typing import Final

from torch import Tensor

from fsrobust.types import Images

MOMENTS: Final[dict[str, tuple[tuple[float, ...], tuple[float, ...]]]] = {
    "ImageNet mean and std": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "CIFAR-10 mean and std": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "CIFAR-100 mean and std": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "SVHN mean and std": ((0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970)),
    "MNIST mean and std": ((0.1307,), (0.3081,)),
}
"""What networks were commonly trained with, per channel."""


def usual_inputs(x: Images) -> dict[str, Tensor]:
    """Return the images as networks without a first layer of their own commonly expect them."""
    mean, std = x.mean((0, 2, 3), keepdim=True), x.std((0, 2, 3), correction=0, keepdim=True).clamp_min(1e-6)
    made = {"[-1, 1]": 2 * x - 1, "0 to 255": 255 * x, "the data's own mean and std": (x - mean) / std}
    for name, moments in MOMENTS.items():
        if len(moments[0]) == x.shape[1]:
            centre, spread = (x.new_tensor(values)[:, None, None] for values in moments)
            made[name] = (x - centre) / spread
    return made
