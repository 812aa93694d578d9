"""Class-incremental learning as pure functions over explicit pytrees. The rooms, from the ground up:

    tree, rng, errors                      pytree algebra; keys; failures with an exit status
    classifier, losses, herding, metrics   the formulas of the field, each importable and testable alone
    memory                                 which images are kept, and how many
    nn, model                              layers and backbones with explicit state; backbone + classifier
    optim                                  (init, update) pairs and learning rate schedules
    data                                   images, phases, augmentation, batches
    methods                                a method is a record of functions: wa, icarl, lwf, replay, ...
    engine                                 the training step, its compilation, the loops, several processes
    evaluation                             what is measured at the end of a phase
    config, trainer, setup                 the TOML; everything that a run needs, built from it
    progress, training                     where a run stands; the training of one phase
    experiment                             the phase loop: the whole method, top to bottom
    planning                               what a run will do, counted before it does it
    events, status, packing, checkpoint    the record of a run; what it does now; what is kept on disk
    report                                 what a person sees
    predicting                             what a finished run leaves to predict with, and what that predicts
    lock, signals, keeping, directory      one process a directory; when a run is saved, stopped, gone on with
    recording                              what a run writes and shows as it goes
    run                                    one run and its directory: what train.py calls

Imports go up this list only. Start reading at `experiment`.
"""

__version__ = "0.1.0"
