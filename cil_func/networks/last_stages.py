"""Several last stages on one backbone, in the trees of its params and state: a part "earlier" beside the newest one."""

from cil_func.tree import Tree


def branched(backbone: Tree, last: str) -> Tree:
    """Returns a backbone's params or state with its newest last stage, `last`, among the "earlier" ones too.

    backbone: {name: part}. The earlier ones are called "0", "1", ... by the phases that trained them. Tensors are
    shared.
    """
    ((name, part),) = backbone.items()
    earlier = part.get("earlier", {})
    return {name: {**part, "earlier": {**earlier, str(len(earlier)): part[last]}}}


def is_earlier(path: str) -> bool:
    """Returns whether a path is that of a tensor of an earlier phase's last stage."""
    return path.startswith("backbone.") and ".earlier." in path
