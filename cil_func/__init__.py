"""Class-incremental learning as pure functions over explicit pytrees. The rooms, from the ground up:

    errors, rng, tree               failures with an exit status; keys; pytree algebra
    classifier, losses, herding     the formulas of the field, each importable and testable alone
    metrics, optim                  measures; (init, update) pairs and learning rate schedules
    memory                          which images are kept, and how many
    config                          the TOML: its keys, its presets, its mistakes
    networks, model                 backbones and heads with explicit state; one backbone with a linear classifier
    methods                         a method is a record of functions: wa, icarl, lwf, replay, ...
    data                            images, phases, augmentation, batches
    parallel                        several processes that share each batch
    training                        the training step, its compilation, and the loops around it
    experiment                      the phase loop: the whole method, top to bottom
    report                          what a person sees of a run
    runs                            one run and its directory: what train.py calls

A room imports only from rooms above it in this list (tests/test_rooms.py). Start reading at `experiment`.
"""

__version__ = "0.1.0"
