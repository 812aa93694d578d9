"""What a method that replays exemplars beside each batch draws from, and the logits that it stores of them."""

import torch
import torch.nn.functional as F

from cil_func import memory, tree
from cil_func.data.replays import Pool
from cil_func.data.scenario import Phase
from cil_func.memory import Memory
from cil_func.methods.base import Replay
from cil_func.methods.extra import LOGITS
from cil_func.networks.network import Model
from cil_func.training.definition import Experiment


def of_phase(
    replay: Replay, experiment: Experiment, phase: Phase, exemplars: Memory, extra: tree.Tree
) -> tuple[Pool, ...]:
    """Returns the pool of each group of a phase that has an exemplar.

    exemplars: of the old classes. extra: what the method remembers, with the stored logits, see `with_logits`.
    """
    width, sizes = experiment.num_classes, experiment.sizes(phase)

    def pool(group: int, labels: range) -> Pool:
        kept = {label: exemplars[label] for label in labels if label in exemplars}
        logits = None
        if replay.stores and kept:
            rows = [extra[LOGITS][str(label)][: len(kept[label])].cpu() for label in sorted(kept)]
            logits = torch.cat([F.pad(part, (0, width - part.shape[1])) for part in rows])
        return Pool(group, memory.rows(kept), logits)

    if replay.groups == "phases":
        pools = [pool(index, range(sum(sizes[:index]), sum(sizes[: index + 1]))) for index in range(phase.index)]
    else:
        pools = [pool(group, range(sum(sizes[:-1]))) for group in range(replay.groups)]
    return tuple(pool for pool in pools if len(pool.rows))


def with_logits(experiment: Experiment, phase: Phase, learned: Model, exemplars: Memory, extra: tree.Tree) -> tree.Tree:
    """Returns `extra` with the logits of all exemplars, {label: (M, K)} under LOGITS, if the method stores them.

    A class keeps those of the phase that it came with, K being the classes seen then: as many as it has exemplars.
    learned: the phase's finished model. exemplars: of all classes seen. Un-augmented images, in eval mode; on the CPU.
    """
    replay = experiment.method.replay
    if not (replay and replay.stores):
        return extra
    stored = {label: leaf[: len(exemplars[int(label)])] for label, leaf in extra.get(LOGITS, {}).items()}
    params = tree.cast({name: part for name, part in learned.params.items() if name != "backbone"}, device="cpu")
    for label in sorted(exemplars.keys() - {int(label) for label in stored}):
        features = experiment.forward.features(
            learned, experiment.train_images, exemplars[label], when=f"phase {phase.index}"
        )
        stored[str(label)] = experiment.network.outputs(params, features, experiment.classes(phase)).logits
    return {**extra, LOGITS: stored}
