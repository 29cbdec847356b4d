"""M3ViT: dense tasks on a vision transformer with experts (arXiv 2210.14793, sections 1 to 3)."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from edgemtl.data.preprocess import InputSpec
from edgemtl.errors import UsageError
from edgemtl.models.diagnostics import OVERFLOW
from edgemtl.models.experts import (
    LOWERINGS,
    Capacity,
    ExpertNetwork,
    ExpertUse,
    Lowering,
)
from edgemtl.models.m3vit.decoders import Decoder, TaskAttention, grid_of
from edgemtl.models.m3vit.gates import GATINGS, NOISES, Gating, Noise, NoiseSource, balance_loss
from edgemtl.models.m3vit.vit import Backbone, ExpertShape, Record, Shape
from edgemtl.models.registry import register_family
from edgemtl.tasks.base import Task, TaskSpec
from edgemtl.tasks.registry import build as build_task
from edgemtl.tasks.registry import spec_from_dict
from edgemtl.tasks.segmentation import Segmentation

#: variant -> width, depth, heads
VARIANTS = {"tiny": (192, 12, 3), "small": (384, 12, 12), "base": (768, 12, 12)}
#: kinds of tasks in gate order -> channels (None: one per class)
CHANNELS: dict[str, int | None] = {
    "segmentation": None,
    "parts": None,
    "saliency": 1,
    "normals": 3,
    "edges": 1,
    "depth": 1,
}
#: ImageNet mean and standard deviation, RGB, 0..255
MEAN = (0.485 * 255, 0.456 * 255, 0.406 * 255)
STD = (0.229 * 255, 0.224 * 255, 0.225 * 255)


@dataclass(frozen=True)
class TrainingOutputs:
    """What a forward for training gives.

    Attributes:
        outputs: as :meth:`M3ViT.forward`.
        auxiliary: per level of distillation, outputs of all tasks, to be trained with the same
            losses; empty without distillation or when not all tasks were asked.
        balance: balance loss over all layers and gates that were used; zero without experts.
    """

    outputs: dict[str, Tensor]
    auxiliary: tuple[dict[str, Tensor], ...]
    balance: Tensor


def _in_gate_order(tasks: Sequence[Mapping[str, Any]]) -> list[TaskSpec]:
    """The tasks by kind in the published order; among equal kinds as given."""
    specs = [spec_from_dict(task) for task in tasks]
    order = list(CHANNELS)
    unknown = [spec.kind for spec in specs if spec.kind not in order]
    if unknown or not specs:
        raise ValueError(f"M3ViT has tasks of the kinds {', '.join(order)}, not {unknown}")
    return sorted(specs, key=lambda spec: order.index(spec.kind))


def _channels(task: Task) -> int:
    return len(task.classes) if isinstance(task, Segmentation) else CHANNELS[task.kind] or 0


@register_family("m3vit")
class M3ViT(ExpertNetwork):
    """Vision transformer, mixtures of experts in odd blocks, one decoder per task.

    Tasks are ordered as their gates are: segmentation, parts, saliency, normals, edges, depth.

    Args:
        tasks: :class:`TaskSpec` of each task as plain data; one output map each.
        variant: ``tiny``, ``small`` or ``base``.
        size: height and width of the input in pixels, multiples of 16.
        experts: E per mixture; 0 makes all blocks dense.
        top_k: K.
        expert_ratio: width inside an expert over the width of a token.
        gating: ``per_task``, ``task_conditioned`` or ``single``.
        noise: ``vmoe`` or ``shazeer`` (see gates.py).
        noise_std: factor on the gate noise in training; 0 (as published) for none.
        decoder_width: channels inside the decoders.
        distillation_levels: levels of distillation between tasks in training, 0 to 3 (published: 3
            for NYUD, 2 for PASCAL-Context); needs sizes that are multiples of 32.
        dim, depth, heads: instead of the variant's.
        lowering: how experts are computed: ``gather``, ``static`` or ``dense`` (see experts.py).
        capacity: tokens per expert for ``static``: one number for all, or per layer with experts
            one number or one per expert that is there; None for all tokens.
        kept_experts: per layer with experts, those that are there (``keeping_experts``); None for
            all in all layers.
    """

    def __init__(
        self,
        tasks: Sequence[Mapping[str, Any]],
        variant: str = "small",
        size: Sequence[int] = (480, 640),
        experts: int = 16,
        top_k: int = 4,
        expert_ratio: float = 1.0,
        gating: Gating = "per_task",
        noise: Noise = "vmoe",
        noise_std: float = 0.0,
        decoder_width: int = 256,
        distillation_levels: int = 0,
        dim: int | None = None,
        depth: int | None = None,
        heads: int | None = None,
        lowering: Lowering = "gather",
        capacity: Capacity = None,
        kept_experts: Sequence[Sequence[int]] | None = None,
    ) -> None:
        if variant not in VARIANTS or gating not in GATINGS or noise not in NOISES:
            raise ValueError(f"unknown variant '{variant}', gating '{gating}' or noise '{noise}'")
        if experts and not 1 <= top_k <= experts:
            raise ValueError(f"{top_k} of {experts} experts cannot be chosen")
        if not 0 <= distillation_levels <= 3:
            raise ValueError("there are 0 to 3 levels of distillation")
        specs = _in_gate_order(tasks)
        height, width = int(size[0]), int(size[1])
        if distillation_levels and (height % 32 or width % 32):
            raise ValueError("distillation needs height and width that are multiples of 32")
        super().__init__(
            {
                "tasks": [spec.to_dict() for spec in specs],
                "variant": variant,
                "size": [height, width],
                "experts": experts,
                "top_k": top_k,
                "expert_ratio": expert_ratio,
                "gating": gating,
                "noise": noise,
                "noise_std": noise_std,
                "decoder_width": decoder_width,
                "distillation_levels": distillation_levels,
                "dim": dim,
                "depth": depth,
                "heads": heads,
                "kept_experts": kept_experts,
            },
            [build_task(spec) for spec in specs],
            InputSpec((height, width), "rgb", MEAN, STD),
        )
        usual = VARIANTS[variant]
        shape = Shape(
            usual[0] if dim is None else dim,
            usual[1] if depth is None else depth,
            usual[2] if heads is None else heads,
            4 * (usual[0] if dim is None else dim),
        )
        grid = grid_of((height, width))
        self._noise = NoiseSource()
        self.backbone = Backbone(
            shape,
            ExpertShape(
                experts,
                top_k,
                round(shape.dim * expert_ratio),
                gating,
                noise,
                noise_std,
                kept_experts,
            ),
            [task.name for task in self.tasks],
            (height, width),
            self._noise,
        )
        channels = {task.name: _channels(task) for task in self.tasks}
        self.decoders = nn.ModuleDict(
            {name: Decoder(shape.dim, decoder_width, n, grid) for name, n in channels.items()}
        )
        self.distillation = nn.ModuleList(
            TaskAttention(channels, decoder_width) for _ in range(distillation_levels)
        )
        self.set_lowering(lowering, capacity)

    def forward(self, images: Tensor, tasks: Sequence[str] | None = None) -> dict[str, Tensor]:
        """(B, 3, H, W) -> per task (B, C, H, W): logits, vectors or metres, as its kind says.

        One task costs one path: its gates and its decoder. Several share what comes before the
        first gate. With the lowering ``static``, and where experts were dropped, there is one more
        output, ``experts.overflow`` (B, 1): how many choices of an expert found it full or gone;
        anything but 0 means that the answers are not those of the network.
        """
        wanted = self.requested(tasks)
        record = Record()
        tokens = self.backbone(images, [task.name for task in wanted], record)
        outputs = {
            task.outputs[0]: self.decoders[task.name](x)
            for task, x in zip(wanted, tokens, strict=True)
        }
        if self._overflows():
            outputs[OVERFLOW] = torch.stack(record.dropped).sum(dim=0).unsqueeze(1)
        return outputs

    def forward_training(
        self, images: Tensor, tasks: Sequence[str] | None = None
    ) -> TrainingOutputs:
        """As :meth:`forward`, with what only training needs.

        Raises:
            ValueError: the network is in eval mode.
        """
        if not self.training:
            raise ValueError("call train() first: gates only record their use in training mode")
        wanted = self.requested(tasks)
        record = Record()
        tokens = self.backbone(images, [task.name for task in wanted], record)
        features: dict[str, list[Tensor]] = {task.name: [] for task in wanted}
        outputs = {
            task.outputs[0]: self.decoders[task.name](x, features[task.name])
            for task, x in zip(wanted, tokens, strict=True)
        }
        auxiliary: list[dict[str, Tensor]] = []
        if len(wanted) == len(self.tasks):
            for level, attention in enumerate(self.distillation):
                maps = [features[task.name][level] for task in self.tasks]
                found = attention(maps, self.input_spec.size)
                auxiliary.append({task.outputs[0]: found[task.name] for task in self.tasks})
        balance = balance_loss(record.routings) if record.routings else images.new_zeros(())
        return TrainingOutputs(outputs, tuple(auxiliary), balance)

    def seed_noise(self, seed: int) -> None:
        """Start the gates' noise anew from this seed."""
        self._noise.seed(seed)

    def output_names(self, tasks: Sequence[str] | None = None) -> tuple[str, ...]:
        """Outputs of the tasks, and the overflow count where the lowering has one."""
        return super().output_names(tasks) + ((OVERFLOW,) if self._overflows() else ())

    def _overflows(self) -> bool:
        experts = [mixture.experts for mixture in self.backbone.mixtures()]
        return any(e.lowering == "static" or e.count < e.choices for e in experts)

    def experts_kept(self) -> list[list[int]]:
        """See :meth:`ExpertNetwork.experts_kept`."""
        return [list(mixture.experts.kept) for mixture in self.backbone.mixtures()]

    def keeping_experts(self, kept: Sequence[Sequence[int]]) -> M3ViT:
        """See :meth:`ExpertNetwork.keeping_experts`.

        The gates stay whole: they score all E experts and their softmax runs over all, so the
        weights of those that are kept do not change. What they choose is looked up among those that
        are there; a picture that chooses another is counted in ``experts.overflow``.
        """
        other = copy.deepcopy(self)
        mixtures = other.backbone.mixtures()
        if len(kept) != len(mixtures):
            raise ValueError(f"there are {len(mixtures)} layers with experts, not {len(kept)}")
        for mixture, numbers in zip(mixtures, kept, strict=True):
            experts = mixture.experts
            absent = sorted(set(numbers) - set(experts.kept))
            if absent or not numbers or list(numbers) != sorted(set(numbers)):
                raise ValueError(f"{list(numbers)} cannot be kept of {list(experts.kept)}")
            places = [experts.kept.index(number) for number in numbers]
            for name, parameter in list(experts.named_parameters(recurse=False)):
                setattr(experts, name, nn.Parameter(parameter.detach()[places].clone()))
            experts.name_kept(numbers)
        other.arguments["kept_experts"] = [list(numbers) for numbers in kept]
        return other

    def set_lowering(self, lowering: Lowering, capacity: Capacity = None) -> None:
        """Choose how experts are computed; weights stay (see experts.py).

        With ``static``, tasks that are asked for together share an expert's queue as long as their
        tokens are no more than 2048; a capacity is that of this queue.

        It is a property of an export, not of the architecture, so a checkpoint does not keep it.

        Raises:
            ValueError: unknown lowering, or capacities that are not positive, not one per layer, or
                in a layer not one per expert.
        """
        if lowering not in LOWERINGS:
            raise ValueError(f"unknown lowering '{lowering}' (known: {', '.join(LOWERINGS)})")
        mixtures = self.backbone.mixtures()
        each = (
            [capacity] * len(mixtures)
            if capacity is None or isinstance(capacity, int)
            else list(capacity)
        )
        numbers = [[c] if isinstance(c, int) else list(c or ()) for c in each]
        if len(each) != len(mixtures) or any(c < 1 for layer in numbers for c in layer):
            raise ValueError(f"{len(mixtures)} positive capacities are needed, not {each}")
        for mixture, tokens in zip(mixtures, each, strict=True):
            count = mixture.experts.count
            if isinstance(tokens, Sequence) and len(tokens) != count:
                raise ValueError(f"{count} experts need as many capacities, not {list(tokens)}")
        for mixture, tokens in zip(mixtures, each, strict=True):
            mixture.experts.lowering = lowering
            mixture.experts.capacity = tokens

    @torch.no_grad()
    def expert_use(self, images: Tensor, tasks: Sequence[str] | None = None) -> list[ExpertUse]:
        """How these pictures use the experts, per layer with experts; to set capacities."""
        names = [task.name for task in self.requested(tasks)]
        record = Record()
        self.backbone(images, names, record)
        layers = len(self.backbone.mixtures())
        gates = names if self.arguments["gating"] != "single" else ["shared"]
        experts = torch.arange(int(self.arguments["experts"]), device=images.device)
        found = []
        for layer in range(layers):
            # (gates, T, E): whether a token goes to an expert
            chosen = torch.stack([r.experts for r in record.routings[layer::layers]])
            goes = (chosen.unsqueeze(-1) == experts).any(dim=2)
            loads = goes.sum(dim=1)
            if not self.backbone.may_share_queues(names):
                queues = loads.amax(dim=0)
            else:
                queues = goes.any(dim=0).sum(dim=0) if layer == 0 else loads.sum(dim=0)
            found.append(ExpertUse(dict(zip(gates, loads, strict=True)), queues))
        return found

    def restricted(self, names: Sequence[str]) -> M3ViT:
        """An equal network with these tasks only; other tasks' gates and decoders go.

        Raises:
            UsageError: an unknown task, or a pruned network.
        """
        kept = [task.name for task in self.selected(names)]
        other = copy.deepcopy(self)
        if len(kept) == len(self.tasks):
            return other
        if self.pruning:
            raise UsageError(
                "a network that was pruned cannot leave out tasks",
                hint="leave them out when it is pruned for the first time",
            )
        other.tasks = tuple(task for task in other.tasks if task.name in kept)
        other.arguments["tasks"] = [task.spec().to_dict() for task in other.tasks]
        other.arguments["distillation_levels"] = 0  # it joins the features of all tasks
        other.distillation = nn.ModuleList()
        other.decoders = nn.ModuleDict({name: other.decoders[name] for name in kept})
        other.backbone.keep_tasks(kept)
        return other
