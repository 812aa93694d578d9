"""Run by torchrun: ten steps of ours beside torch's DistributedDataParallel around a plain module, the same batches.

Each process holds one norm group, which is what a module's batch norm sees. Prints "same" where all weights and
statistics agree, else raises.
"""

import reference
import tiny
import torch
import torch.distributed as dist
from torch.nn.functional import cross_entropy, kl_div, log_softmax, softmax
from torch.nn.parallel import DistributedDataParallel

from cil_func import methods, optim, tree
from cil_func.data.batches import Batch
from cil_func.networks.network import Network
from cil_func.networks.outputs import classes_of
from cil_func.parallel import batch_split
from cil_func.parallel.joining import join
from cil_func.parallel.launch import launched
from cil_func.training import step, step_state
from cil_func.training.preprocess import Preprocess

CLASSES, OLD, GROUP = 6, 4, 5


def main() -> None:
    torch.set_num_threads(1)
    launch = launched()
    with join(launch, timeout_seconds=60, on_loss=lambda failure: None) as processes:
        net = Network("resnet20", num_classes=CLASSES, num_phases=2, backbone=tiny.BACKBONE)
        params, state = tree.cast(tuple(net.init(0, CLASSES)), dtype=torch.float64)
        network = reference.load(8, params, state)
        module = DistributedDataParallel(network, broadcast_buffers=False)
        sgd = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
        options = methods.Options(kd_combination="sum", kd_weight=2.0)
        stage, optimiser = methods.make("wa", options).main, optim.sgd(momentum=0.9, weight_decay=5e-4)
        preprocess = Preprocess(*torch.tensor([[0.5] * 3, [0.25] * 3], dtype=torch.float64))
        parts = step.make(stage, net, optimiser, preprocess, dtype=torch.float64, norm_batch=GROUP, padded=True)
        run, train_state = step.join(parts, processes.reduce), step_state.start(stage, optimiser, params, state)
        classes = classes_of([OLD, CLASSES - OLD], 1)
        sizes = {"batch_size": GROUP * processes.size, "norm_batch": GROUP}
        own = batch_split.slice_of_rank(processes.rank, processes.size, **sizes)
        for images, labels, taught in batches(GROUP * processes.size):
            pixels = ((images[own].double() / 255 - 0.5) / 0.25).permute(0, 3, 1, 2)
            logits = module(pixels)[0]
            soft = softmax(taught[own, :OLD] / 2, 1)
            kl = kl_div(log_softmax(logits[:, :OLD] / 2, 1), soft, reduction="batchmean")
            sgd.zero_grad()
            (cross_entropy(logits, labels[own]) + 2 * kl).backward()
            sgd.step()
            given = methods.Outputs(taught[own], torch.zeros(GROUP, 64).double()), Batch(images[own], labels[own])
            train_state, _ = run(train_state, *given, classes, torch.tensor(0.1, dtype=torch.float64))
        compare(train_state, network, processes.size)
        if processes.first:
            print("same", flush=True)


def batches(size: int):
    """The same ten on every process: (images, labels, the teacher's logits)."""
    generator = torch.Generator().manual_seed(1)
    for _ in range(10):
        images = torch.randint(0, 256, (size, 8, 8, 3), generator=generator, dtype=torch.uint8)
        labels = torch.randint(0, CLASSES, (size,), generator=generator)
        yield images, labels, torch.randn(size, CLASSES, generator=generator, dtype=torch.float64)


def compare(train_state: step_state.TrainState, network: torch.nn.Module, size: int) -> None:
    theirs = network.state_dict()
    for path, leaf in reference.parameters(train_state.params).items():
        torch.testing.assert_close(leaf, theirs[path], rtol=1e-7, atol=1e-10, msg=path)
    for path, leaf in reference.statistics(train_state.state).items():
        mean = theirs[path].clone()  # a module has its own group's statistics; ours are the mean over groups
        dist.all_reduce(mean)
        torch.testing.assert_close(leaf, mean / size, rtol=1e-7, atol=1e-10, msg=path)


if __name__ == "__main__":
    main()
