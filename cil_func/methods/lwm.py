"""LwM, learning without memorizing (Dhar et al., CVPR 2019, arXiv:1811.08051): LwF that keeps where the network looks.

    loss = LwF's + gamma * mean over images of || Q / ||Q||_2 - Q' / ||Q'||_2 ||_1                        (equation 3)

Q: the student's attention map for class b, Q': the teacher's; b: the old class that the teacher finds likeliest. A map
is Grad-CAM's, relu(sum_k a_k A_k) over the last feature maps A_k, where a_k is the mean over pixels of the gradient of
logit b by A_k. With average pooling and a linear classifier a_k is w_bk over the number of pixels, which the
normalising removes, so nothing is differentiated twice. No image is kept.
"""

from dataclasses import replace

import torch
import torch.nn.functional as F

from cil_func import losses
from cil_func.methods import lwf
from cil_func.methods.base import Method, Options
from cil_func.methods.ranges import Weight
from cil_func.networks.head import Head


def make(options: Options, *, gamma: Weight = 1.0) -> Method:
    """Returns LwM. gamma: weight of the attention's distance. The options of [method] are those of `lwf`.

    FACIL computes both maps without gradients, so that its term trains nothing.
    """
    base = lwf.make(options)

    def loss(student, teacher, targets, classes):
        top = teacher.logits.masked_fill(~classes.old, -torch.inf).argmax(dim=1)  # (B,)
        maps = [attention(each.aux["maps"], top) for each in (student, teacher)]
        far = losses.distance(*maps, rows=targets.rows, order=1)
        far = torch.where(classes.old.any(), far, 0.0)  # a number times a bool tensor would be float32
        return base.loss(student, teacher, targets, classes) + gamma * far

    return replace(base, name="lwm", loss=loss, taps=last_maps, head=Head(maps=class_maps))


def last_maps(maps: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    """Returns {"maps": (B, D, pixels)}, the last feature maps as they are pooled. A `networks.outputs.Taps`."""
    return {"maps": F.relu(maps[-1]).flatten(2)}


def class_maps(rows, shared, aux: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Returns {"maps": (B, C, pixels)}: sum_k w_ck A_k for each class. A `networks.head.OfMaps`."""
    return {"maps": torch.einsum("cd,bdp->bcp", rows["weight"], aux["maps"])}


def attention(maps: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Returns the map of one class an image, clipped at 0 and of L2 norm 1: (B, pixels). maps: (B, C, pixels)."""
    own = maps.gather(1, labels[:, None, None].expand(-1, 1, maps.shape[2]))[:, 0]
    return F.normalize(F.relu(own), dim=1)
