"""A network: a backbone, a head on its features, and how both grow from phase to phase.

    params = {"backbone": {name: ...}, "classifier": rows, "head": shared, "frozen": {"0": {name: ...}, ...}}
    state  = {"backbone": {name: ...}, "frozen": {"0": {name: ...}, ...}}

"head" is there only if the head has parameters that belong to no class, "frozen" only if each phase adds a backbone.
Where each phase adds a last stage, the backbone's {name: ...} has those of earlier phases as "earlier": {"0": ...};
a second backbone that is trained too is its part "beside", see `networks.beside`.
The training step sees no "frozen" part: the features of frozen backbones are computed before the step, together with
the teacher's outputs, so that the step's shapes never change. `cil_func.model` has the simple case as plain functions:
one backbone and one linear classifier.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F

from cil_func import rng, tree
from cil_func.networks import backbones, beside, last_stages
from cil_func.networks.backbones import Backbone, Taps
from cil_func.networks.head import LINEAR, BeginPhase, Head
from cil_func.networks.outputs import Classes, Outputs
from cil_func.networks.timm_skeleton import OFF, Drop
from cil_func.tree import Tree


class Model(NamedTuple):
    """A network's tensors for the K classes seen so far; the docstring of this module shows the keys.

    params: what is learned. state: what isn't, such as batch norm's running statistics.
    """

    params: Tree
    state: Tree


@dataclass(frozen=True)
class Network:
    """A backbone, a head and the sizes of the whole run; every function of it is pure.

    name: the backbone's key in params. num_classes, num_phases: of the run.
    image_size: (H, W), which a vision transformer's parameters depend on; None: the backbone's own.
    backbone: None: the built-in one called `name`. head: what turns features into logits.
    taps(feature maps) -> what a loss needs of them, by name, see `networks.resnet.apply`; None: nothing.
    final_relu: False leaves out the backbone's last ReLU. drop: rates of dropout and stochastic depth in train mode.
    grow: what each phase adds: "rows" of the classifier alone; a "backbone"; or a last "stage" of the backbone, see
    `Backbone.last`. The head sees the features of all backbones, or of all last stages, side by side. "pair": a
    backbone beside the last one, for a part of the phase, which ends with one backbone (`single`).
    beside: whether a second backbone is trained too. begin: changes the params that a later phase starts from.
    """

    name: str
    num_classes: int
    num_phases: int
    image_size: tuple[int, int] | None = None
    backbone: Backbone = None  # type: ignore[assignment]  # None: the built-in one called `name`
    head: Head = field(default_factory=lambda: LINEAR)
    taps: Taps | None = None
    final_relu: bool = True
    drop: Drop = OFF
    grow: Literal["rows", "backbone", "stage", "pair"] = "rows"
    beside: bool = False
    begin: BeginPhase = lambda params, num_new, phase, key: params

    def __post_init__(self) -> None:
        if self.backbone is None:
            object.__setattr__(self, "backbone", backbones.backbone(self.name))

    @property
    def feature_dim(self) -> int:
        """How many features the head is given: D, or num_phases * D where each phase adds some, or 2 * D for a pair."""
        return self.backbone.feature_dim() * self._blocks

    @property
    def adds_backbone(self) -> bool:
        """Whether a phase begins to train a new backbone beside the last phase's ones, which are then "frozen"."""
        return self.grow in ("backbone", "pair")

    @property
    def _blocks(self) -> int:
        return {"rows": 1, "pair": 2}.get(self.grow, self.num_phases)

    def init(self, key: int, num_new: int) -> Model:
        """Returns a new network that knows num_new classes, drawn from the int seed `key`, on the CPU in float32."""
        size = self.backbone.feature_dim()
        name = self.name.partition(".")[0]  # timm's tag behind the dot names weights, and none are loaded
        params, state = self.backbone.init(rng.fold_in(key, "backbone"), image_size=self.image_size)
        if self.beside:
            others = self.backbone.init(rng.fold_in(key, "beside"), image_size=self.image_size)
            params, state = map(beside.joined, (params, state), others)
        rows = self._widened(self.head.init(rng.fold_in(key, "classifier"), size, num_new))
        shared = self.head.shared(rng.fold_in(key, "head"), size, self.num_classes, self.num_phases)
        more = {"head": shared} if shared else {}
        return Model({"backbone": {name: params}, "classifier": rows, **more}, {"backbone": {name: state}})

    def expand(self, model: Model, key: int, num_new: int, phase: int) -> Model:
        """Returns the model that phase `phase` > 0 starts from: the last one with rows for num_new classes more.

        model: the last phase's, finished. key: the phase's int seed, from which the new rows are drawn, and what the
        head draws anew of "head" (`Head.renew`). num_new: how many classes the phase brings.
        Where a backbone is added, the last one also gets into "frozen", under the phase that trained it, and "backbone"
        starts from the same weights; a last stage gets into "earlier" in the same way. Nothing is changed in place;
        what stays the same shares its tensors with `model`, and so do the newest and the newest frozen one.
        """
        params, state = model
        key_of_rows = rng.fold_in(key, "expand")
        if self.grow == "rows":
            rows = self.head.expand(params["classifier"], key_of_rows, num_new)
        else:
            known = 1 if self.grow == "pair" else phase
            rows = self._grow_rows(params["classifier"], key_of_rows, num_new, known=known, blocks=known + 1)
        params = {**params, "classifier": rows}
        if "head" in params:
            params["head"] = self.head.renew(params["head"], rng.fold_in(key, "head"))
        params = self.begin(params, num_new, phase, rng.fold_in(key, "begin"))
        if self.grow == "stage":
            backbones = (last_stages.branched(part["backbone"], self.backbone.last) for part in model)
            return Model({**params, "backbone": next(backbones)}, {**state, "backbone": next(backbones)})
        return with_frozen(Model(params, state), model) if self.adds_backbone else Model(params, state)

    def single(self, model: Model, key: int, num_new: int) -> Model:
        """Returns a model of one backbone with rows for num_new classes more, drawn by the int seed `key`.

        model: of a network that trains a "pair", the last phase's, finished.
        """
        rows = self._grow_rows(model.params["classifier"], rng.fold_in(key, "expand"), num_new, known=1, blocks=1)
        return Model({**model.params, "classifier": rows}, model.state)

    def drawn(self, key: int, sizes: Sequence[int]) -> Model:
        """Returns a model with random weights, in the shapes that one has after phases of these sizes.

        key: an int seed. sizes: how many classes each phase brings.
        """
        model = self.init(key, sizes[0])
        for phase, num_new in enumerate(sizes[1:], 1):
            own = rng.fold_in(key, phase)
            model = self.single(model, own, num_new) if self.grow == "pair" else self.expand(model, own, num_new, phase)
        return model

    def _grow_rows(self, rows: Tree, key: int, num_new: int, *, known: int, blocks: int) -> Tree:
        """Returns rows for num_new classes more: of the old ones the first `known` blocks stay, all else is drawn.

        rows: {"weight": (K, feature_dim), "bias": (K,)}, or without bias. A block: the D features of one backbone. The
        draws are those of a linear layer on `blocks` of them.
        """
        num_old, size = len(rows["weight"]), self.backbone.feature_dim()
        drawn = self.head.init(key, blocks * size, num_old + num_new)
        drawn = {name: leaf.to(rows[name], copy=True) for name, leaf in self._widened(drawn).items()}
        drawn["weight"][:num_old, : known * size] = rows["weight"][:, : known * size]
        others = {name: torch.cat([rows[name], leaf[num_old:]]) for name, leaf in drawn.items() if name != "weight"}
        return drawn | others

    def _widened(self, rows: Tree) -> Tree:
        """Returns rows padded with zeros to all features that the head is given."""
        missing = 0 if self.grow == "rows" else self.feature_dim - rows["weight"].shape[1]
        return {**rows, "weight": F.pad(rows["weight"], (0, missing))} if missing else rows

    def adopt(self, model: Model) -> Model:
        """Returns the finished model of a shorter run, of fewer classes or phases, in the shapes of this network.

        What belongs to classes and phases to come is as in a new network. A head of another kind comes back as it is.
        """
        params = {**model.params, "classifier": self._widened(model.params["classifier"])}
        fresh = self.head.shared(0, self.backbone.feature_dim(), self.num_classes, self.num_phases)
        if "head" in params and tree.to_paths(params["head"]).keys() == tree.to_paths(fresh).keys():
            params["head"] = tree.map(lambda old, new: tree.embed(old, new.to(old)), params["head"], fresh)
        return Model(params, model.state)

    def pad(self, params: Tree) -> Tree:
        """Returns params with the classifier's rows padded with zeros to the run's C classes, as a step trains it."""

        def padded(leaf: torch.Tensor) -> torch.Tensor:
            return torch.cat([leaf, leaf.new_zeros(self.num_classes - len(leaf), *leaf.shape[1:])])

        return {**params, "classifier": tree.map(padded, params["classifier"])}

    def cut(self, params: Tree, num_seen: int) -> Tree:
        """Returns params with the classifier's first num_seen rows, as views: the inverse of `pad`."""
        return {**params, "classifier": tree.map(lambda leaf: leaf[:num_seen], params["classifier"])}

    def run(
        self, params: Tree, state: Tree, images: torch.Tensor, *, train: bool, **groups
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor], Tree]:
        """Runs one backbone: images (B, 3, H, W), float -> (its features (B, D), aux, new state).

        params: {name: weights}, where name is the backbone's, such as "resnet32", and weights a tree; state:
        {"backbone": {name: buffers}}, and so is the new one. train, and norm_batch and valid (in `groups`): see
        `cil_func.model.apply`. In train mode the network's `drop` applies.
        aux: {name: (B, ...)}, what the network's `taps` make of the inner feature maps; {} if it has none. With
        `beside` there are taps in train mode alone, and a second backbone in the trees runs too, see `beside.run`.
        """
        run_one = partial(
            backbones.run, images=images, train=train, drop=self.drop if train else OFF,
            taps=None if self.beside and not train else self.taps, final_relu=self.final_relu, net=self.backbone,
            **groups,
        )  # fmt: skip
        return beside.run(run_one, params, state)

    def place(self, own: torch.Tensor, now: torch.Tensor | int, others: torch.Tensor | None = None) -> torch.Tensor:
        """Returns the features (B, D) of backbone `now` at the place where the head expects them: (B, feature_dim).

        now: the phase that added the backbone, an int or a 0-d tensor; any above 0 is the new one of a pair.
        others: (B, feature_dim), the features of the other backbones, 0 at the place of `now`; None: all are 0.
        Where no phase adds a backbone there is one, whose features come back as they are, or, where phases add last
        stages, (B, their number * D) with zeros behind them.
        """
        if self.grow == "rows":
            return own
        if self.grow == "stage":
            return F.pad(own, (0, self.feature_dim - own.shape[1]))
        now = now.clamp(max=self._blocks - 1) if isinstance(now, torch.Tensor) else min(now, self._blocks - 1)
        at = (torch.arange(self._blocks, device=own.device) == now).to(own.dtype)                     # (P,)
        placed = (at[:, None] * own[:, None]).flatten(1)                           # (B, P D)
        return placed if others is None else placed + others

    def outputs(
        self, params: Tree, features: torch.Tensor, classes: Classes, aux: dict[str, torch.Tensor] | None = None
    ) -> Outputs:
        """Applies the head to features (B, feature_dim) and returns the network's outputs.

        params: with "classifier", and "head" if there is one. aux: what the taps returned, which the outputs keep
        beside the head's own; None: nothing.
        """
        logits, more = self.head.apply(params["classifier"], params.get("head", {}), features, classes)
        if aux and self.head.maps:
            aux = self.head.maps(params["classifier"], params.get("head", {}), aux)
        return Outputs(logits, features, {**(aux or {}), **more})


def with_frozen(model: Model, last: Model) -> Model:
    """Returns the model with all backbones of the last phase's finished model, but none beside them, as "frozen"."""
    found = ((part.get("frozen", {}), beside.alone(part["backbone"])) for part in last)
    frozen = [{**old, str(len(old)): own} for old, own in found]
    return Model({**model.params, "frozen": frozen[0]}, {**model.state, "frozen": frozen[1]})


def backbone_parts(model: Model, *, second: bool = False) -> list[tuple[int | None, Tree, Tree]]:
    """Returns (phase, params, state) of each backbone of a model, as `Network.run` takes them, the frozen ones first.

    phase: the phase that trained it; None for the newest. second: whether that comes with the one beside it, if any.
    """
    params, state = model
    own = [part["backbone"] if second else beside.alone(part["backbone"]) for part in model]
    frozen = sorted(params.get("frozen", {}), key=int)
    parts = [(int(at), params["frozen"][at], {"backbone": state["frozen"][at]}) for at in frozen]
    return [*parts, (None, own[0], {"backbone": own[1]})]
