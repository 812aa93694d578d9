"""PODNet, pooled outputs distillation (Douillard et al. 2020, arXiv:2004.13513).

A cosine classifier of several proxies a class (`networks.proxies`), a distillation of pooled feature maps (equations 3
to 5), and after each phase a training of the proxies on as many images of each class. Constants: the authors' code.
The backbone has three stages of two or more blocks each, or two of the four pooled maps would be one: resnet14 fits.
"""

from dataclasses import replace

import torch
import torch.nn.functional as F

from cil_func import losses
from cil_func.methods import balance, replay
from cil_func.methods.base import Method, Options
from cil_func.methods.ranges import Count, Number, Weight
from cil_func.networks import proxies as proxy_head
from cil_func.networks.head import of_rows

MAPS = ("stage0", "stage1", "stage2", "final")
LEAST = 2  # blocks a stage; with one, the map before the last is the last one of stage 1, and would count twice


def make(
    options: Options, *, proxies: Count = 10, pod: Weight = 3.0, flat: Weight = 1.0, tuned_epochs: Number = 20
) -> Method:
    """Returns PODNet: replay with PODNet's head and losses.

    proxies: rows a class. pod, flat: weights of the two distillations, of pooled maps and of features. Both are
    multiplied by sqrt(classes seen / new classes); in phase 0 there is neither.
    tuned_epochs: of the stage "balance", which predictions by logits need; 0: no such stage.
    """

    def loss(student, teacher, targets, classes):
        maps = [losses.distance(student.aux[name], teacher.aux[name], rows=targets.rows) for name in MAPS]
        cosine = losses.cosine_distance(student.features, teacher.features, rows=targets.rows)
        num_seen, num_new = (known.sum(dtype=cosine.dtype) for known in (classes.seen, classes.new))
        factor = (num_seen / num_new).sqrt() * classes.old.any()
        return _nca(student, targets, classes) + factor * (pod * torch.stack(maps).mean() + flat * cosine)

    def balanced(student, teacher, targets, classes):
        return _nca(student, targets, classes)

    return replace(
        replay.make(options), name="podnet", loss=loss, head=proxy_head.head(proxies), taps=pool, final_relu=False,
        fault_of_maps=fault_of_maps,
        rows_trained="new", uses_teacher=True, clamp=5.0, imprint=of_rows(proxy_head.centres),
        stages=balance.stage(balanced, epochs=tuned_epochs, rate=0.05, clamp=5.0),
    )  # fmt: skip


def pool(maps: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    """Returns PODNet's pooled maps, by the names in MAPS: each (B, C (H + W)), of L2 norm 1 per image.

    maps: (B, C, H, W) of every block, in order, of three stages of equally many blocks, two or more. Used are the last
    map of stage 0 and of stage 1, and the last two of stage 2. Of each the squares are summed over the width (C H
    numbers) and over the height (C W), and the two are put side by side before normalising.
    """
    last = len(maps) // 3
    squares = [each.square() for each in (maps[last - 1], maps[2 * last - 1], maps[-2], maps[-1])]
    sides = [torch.cat([each.sum(3).flatten(1), each.sum(2).flatten(1)], dim=1) for each in squares]
    return dict(zip(MAPS, (F.normalize(each, dim=1) for each in sides), strict=True))


def fault_of_maps(count: int) -> str:
    """Returns why `pool` can't take so many maps; "" if it can. A `methods.functions.FaultOfMaps`."""
    if count % 3 == 0 and count >= 3 * LEAST:
        return ""
    return f"podnet needs those of three stages of {LEAST} or more blocks each; resnet14 and deeper ones have them"


def _nca(student, targets, classes) -> torch.Tensor:
    return losses.nca(student.logits, targets.labels, mask=classes.seen, rows=targets.rows)
