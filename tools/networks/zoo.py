"""Public architectures, each with two dense heads and random weights.

The packages are the tool's own (``pip install timm segmentation-models-pytorch transformers`` into
an environment beside the project's); nothing is downloaded, and no weight is a trained one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgemtl.data.preprocess import InputSpec
from edgemtl.models import MultiTaskNetwork
from edgemtl.tasks import Depth, Segmentation

CLASSES = ("floor", "wall", "object", "person")
#: of the pictures that timm's networks see, in pixels
SIDE = 64
#: width of the neck that the heads read
NECK = 32
#: paths of the layers that write the outputs
OUTPUTS = ("heads.parts.out", "heads.distance.out")

#: least move of an output between two pictures, as a share of its size
MOVES = 1e-2

#: pictures -> maps (B, C, H, W), the finest first
Backbone = nn.Module


class Head(nn.Module):
    """A 3x3 convolution with norm and activation, then 1x1 to the output's channels."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, inputs, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(inputs)
        self.out = nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, outputs, H, W)."""
        out: Tensor = self.out(F.relu(self.norm(self.conv(x))))
        return out


class TwoHeads(MultiTaskNetwork):
    """A backbone, a neck that sums its maps, and heads for segmentation and depth.

    Args:
        backbone: gives a list of maps.
        size: of the picture.
    """

    family = ""

    def __init__(self, backbone: Backbone, size: tuple[int, int]) -> None:
        spec = InputSpec(size, "rgb", mean=(127.5,) * 3, std=(127.5,) * 3, fill=127.0)
        super().__init__({}, [Segmentation("parts", CLASSES), Depth("distance")], spec)
        self.backbone = backbone.eval()
        with torch.no_grad():
            maps = self.backbone(self.example_input())
        self.laterals = nn.ModuleList(nn.Conv2d(m.shape[1], NECK, 1) for m in maps)
        self.heads = nn.ModuleDict({"parts": Head(NECK, len(CLASSES)), "distance": Head(NECK, 1)})

    def forward(self, images: Tensor, tasks: Sequence[str] | None = None) -> dict[str, Tensor]:
        """(B, 3, H, W) -> logits and distances at the size of the finest map."""
        maps = self.backbone(images)
        fused = self.laterals[0](maps[0])
        for lateral, coarse in zip(list(self.laterals)[1:], maps[1:], strict=True):
            fused = fused + F.interpolate(lateral(coarse), size=fused.shape[2:], mode="nearest")
        answers = {}
        for task in self.requested(tasks):
            out = self.heads[task.name](fused)
            answers[task.outputs[0]] = F.softplus(out) if task.name == "distance" else out
        return answers


class Maps(nn.Module):
    """Adapts what a package's network returns to a list of maps."""

    def __init__(self, network: nn.Module, maps: Callable[[nn.Module, Tensor], list[Tensor]]):
        super().__init__()
        self.network = network
        self.maps = maps

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> maps, the finest first."""
        return self.maps(self.network, images)


def _timm(name: str, take: Sequence[int] = (1, 3), **options: object) -> Backbone:
    """Maps of a timm network at two strides: positions in its list of feature maps."""
    import timm

    made = timm.create_model(name, pretrained=False, features_only=True, **options)
    places = [min(index, len(made.feature_info) - 1) for index in take]
    with torch.no_grad():
        shapes = [m.shape for m in made.eval()(torch.zeros(1, 3, SIDE, SIDE))]
    # some families keep channels last; asked once, since a cut must not change the answer
    last = [shapes[p][1] != made.feature_info.channels()[p] for p in places]

    def maps(network: nn.Module, images: Tensor) -> list[Tensor]:
        found = network(images)
        return [
            found[place].permute(0, 3, 1, 2) if swapped else found[place]
            for place, swapped in zip(places, last, strict=True)
        ]

    return Maps(made, maps)


def _tokens(name: str, **options: object) -> Backbone:
    """A timm transformer's tokens on their grid, class token and registers dropped."""
    import timm

    made = timm.create_model(name, pretrained=False, num_classes=0, global_pool="", **options)

    def maps(network: nn.Module, images: Tensor) -> list[Tensor]:
        tokens = network.forward_features(images)
        tokens = tokens[:, getattr(network, "num_prefix_tokens", 0) :]
        side = int(tokens.shape[1] ** 0.5)
        return [tokens.transpose(1, 2).reshape(tokens.shape[0], -1, side, side)]

    return Maps(made, maps)


def _smp(kind: str, encoder: str, **options: object) -> Backbone:
    """A decoder of segmentation_models_pytorch, up to its last map but one."""
    import segmentation_models_pytorch as smp

    made = smp.create_model(kind, encoder, encoder_weights=None, classes=16, **options)
    return Maps(made, lambda network, images: [network(images)])


def _segformer() -> Backbone:
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    config = SegformerConfig(num_labels=16, decoder_hidden_size=64)
    made = SegformerForSemanticSegmentation(config)
    return Maps(made, lambda network, images: [network(images).logits])


def _dpt() -> Backbone:
    from transformers import DPTConfig, DPTForDepthEstimation

    config = DPTConfig(
        hidden_size=96,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=192,
        image_size=64,
        patch_size=8,
        neck_hidden_sizes=[24, 32, 48, 48],
        fusion_hidden_size=32,
        backbone_out_indices=[0, 1, 2, 3],
    )
    made = DPTForDepthEstimation(config)
    made.head.head[-1] = nn.Identity()  # a ReLU that random weights may leave at 0 everywhere
    return Maps(made, lambda network, images: [network(images).predicted_depth[:, None]])


def _depth_anything() -> Backbone:
    from transformers import DepthAnythingConfig, DepthAnythingForDepthEstimation, Dinov2Config

    backbone = Dinov2Config(
        hidden_size=96,
        num_hidden_layers=4,
        num_attention_heads=4,
        image_size=70,
        patch_size=14,
        out_features=["stage1", "stage2", "stage3", "stage4"],
        reshape_hidden_states=False,
    )
    config = DepthAnythingConfig(
        backbone_config=backbone,
        reassemble_hidden_size=96,
        neck_hidden_sizes=[16, 24, 32, 32],
        fusion_hidden_size=16,
    )
    made = DepthAnythingForDepthEstimation(config)
    made.head.activation2 = nn.Identity()  # as in DPT
    return Maps(made, lambda network, images: [network(images).predicted_depth[:, None]])


def _vitpose() -> Backbone:
    from transformers import VitPoseBackboneConfig, VitPoseConfig, VitPoseForPoseEstimation

    backbone = VitPoseBackboneConfig(
        image_size=[64, 64],
        patch_size=[8, 8],
        hidden_size=96,
        num_hidden_layers=4,
        num_attention_heads=4,
        out_indices=[4],
    )
    config = VitPoseConfig(backbone_config=backbone, use_simple_decoder=False, num_labels=17)
    made = VitPoseForPoseEstimation(config)
    return Maps(made, lambda network, images: [network(images).heatmaps])


def _mask2former() -> Backbone:
    """The pixel decoder (deformable attention over three scales) and its Swin backbone."""
    from transformers import Mask2FormerConfig, SwinConfig
    from transformers.models.mask2former.modeling_mask2former import Mask2FormerPixelLevelModule

    backbone = SwinConfig(
        image_size=64,
        embed_dim=24,
        depths=[1, 1, 2, 1],
        num_heads=[1, 2, 4, 8],
        window_size=4,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    config = Mask2FormerConfig(
        backbone_config=backbone, feature_size=64, mask_feature_size=64, encoder_layers=2
    )
    made = Mask2FormerPixelLevelModule(config)
    nn.init.normal_(made.decoder.level_embed)  # a whole model would do it
    return Maps(made, lambda network, images: [network(images).decoder_last_hidden_state])


def _glpn() -> Backbone:
    from transformers import GLPNConfig, GLPNForDepthEstimation

    made = GLPNForDepthEstimation(GLPNConfig(depths=[1, 1, 1, 1], decoder_hidden_size=32))
    return Maps(made, lambda network, images: [network(images).predicted_depth[:, None]])


def _upernet() -> Backbone:
    from transformers import ConvNextConfig, UperNetConfig, UperNetForSemanticSegmentation

    backbone = ConvNextConfig(
        depths=[1, 1, 2, 1],
        hidden_sizes=[24, 48, 96, 192],
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    config = UperNetConfig(
        backbone_config=backbone, hidden_size=64, num_labels=16, use_auxiliary_head=False
    )
    made = UperNetForSemanticSegmentation(config)
    return Maps(made, lambda network, images: [network(images).logits])


#: name -> (package, side of the picture, how to build the backbone)
ZOO: dict[str, tuple[str, int, Callable[[], Backbone]]] = {
    "resnet18": ("timm", 64, lambda: _timm("resnet18", (2, 4))),
    "resnext26ts": ("timm", 64, lambda: _timm("resnext26ts", (2, 4))),
    "regnety_002": ("timm", 64, lambda: _timm("regnety_002", (2, 4))),
    "mobilenetv2_050": ("timm", 64, lambda: _timm("mobilenetv2_050", (2, 4))),
    "mobilenetv3_small_100": ("timm", 64, lambda: _timm("mobilenetv3_small_100", (2, 4))),
    "mobilenetv4_conv_small": ("timm", 64, lambda: _timm("mobilenetv4_conv_small", (2, 4))),
    "efficientnet_b0": ("timm", 64, lambda: _timm("efficientnet_b0", (2, 4))),
    "efficientvit_b0": ("timm", 64, lambda: _timm("efficientvit_b0", (1, 3))),
    "convnext_atto": ("timm", 64, lambda: _timm("convnext_atto", (1, 3))),
    "hrnet_w18_small": ("timm", 64, lambda: _timm("hrnet_w18_small", (2, 4))),
    "densenet121": ("timm", 64, lambda: _timm("densenet121", (2, 4))),
    "ghostnet_100": ("timm", 64, lambda: _timm("ghostnet_100", (2, 4))),
    "dla34": ("timm", 64, lambda: _timm("dla34", (2, 4))),
    "res2net50d": ("timm", 64, lambda: _timm("res2net50d", (2, 4))),
    "resnest14d": ("timm", 64, lambda: _timm("resnest14d", (2, 4))),
    "repvgg_a0": ("timm", 64, lambda: _timm("repvgg_a0", (2, 4))),
    "ese_vovnet19b_dw": ("timm", 64, lambda: _timm("ese_vovnet19b_dw", (2, 4))),
    "cspresnet50": ("timm", 64, lambda: _timm("cspresnet50", (2, 4))),
    "eca_nfnet_l0": ("timm", 64, lambda: _timm("eca_nfnet_l0", (2, 4))),
    "fastvit_t8": ("timm", 64, lambda: _timm("fastvit_t8", (1, 3))),
    "starnet_s1": ("timm", 64, lambda: _timm("starnet_s1", (1, 3))),
    "poolformer_s12": ("timm", 64, lambda: _timm("poolformer_s12", (1, 3))),
    "pvt_v2_b0": ("timm", 64, lambda: _timm("pvt_v2_b0", (1, 3))),
    "mobilevit_xxs": ("timm", 64, lambda: _timm("mobilevit_xxs", (2, 4))),
    "edgenext_xx_small": ("timm", 64, lambda: _timm("edgenext_xx_small", (1, 3))),
    "repvit_m0_9": ("timm", 64, lambda: _timm("repvit_m0_9", (1, 3))),
    "swin_tiny": (
        "timm",
        64,
        lambda: _timm(
            "swin_tiny_patch4_window7_224", (1, 3), img_size=64, window_size=4, embed_dim=48
        ),
    ),
    "deit_tiny": (
        "timm", 64, lambda: _tokens("deit_tiny_patch16_224", img_size=64, patch_size=8, depth=4)
    ),
    "eva02_tiny": (
        "timm", 56, lambda: _tokens("eva02_tiny_patch14_224", img_size=56, depth=4)
    ),
    "dinov3_small": (
        "timm", 64, lambda: _tokens("vit_small_patch16_dinov3", img_size=64, patch_size=8, depth=3)
    ),
    "smp-unet": ("segmentation_models_pytorch", 64, lambda: _smp("unet", "resnet18")),
    "smp-fpn": ("segmentation_models_pytorch", 64, lambda: _smp("fpn", "mobilenet_v2")),
    "smp-deeplabv3plus": (
        "segmentation_models_pytorch", 64, lambda: _smp("deeplabv3plus", "mobilenet_v2")
    ),
    "smp-pan": ("segmentation_models_pytorch", 128, lambda: _smp("pan", "mobilenet_v2")),
    "smp-linknet": ("segmentation_models_pytorch", 64, lambda: _smp("linknet", "resnet18")),
    "segformer": ("transformers", 64, _segformer),
    "dpt": ("transformers", 64, _dpt),
    "depth-anything": ("transformers", 70, _depth_anything),
    "vitpose": ("transformers", 64, _vitpose),
    "mask2former-pixels": ("transformers", 64, _mask2former),
    "glpn": ("transformers", 64, _glpn),
    "upernet-convnext": ("transformers", 64, _upernet),
}  # fmt: skip


def build(name: str, seed: int = 0) -> TwoHeads:
    """One of the zoo, in eval mode, with weights that make a wrong cut show."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        _, side, make = ZOO[name]
        network = TwoHeads(make(), (side, side))
        _enliven(network)
        _settle_batch_norms(network)
        _require_answers(network)
    return network.eval()


def _enliven(network: nn.Module) -> None:
    """Random where a fresh network is the identity, zero or nearly so.

    Layer scales of 1e-6, norms of 1 and 0 and weights of deviation 0.02 hide what a layer does.
    """
    for module in network.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, 0.0, module.in_features**-0.5)
        elif isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            usual = float(module.weight[0].numel()) ** -0.5
            if float(module.weight.detach().std()) < usual / 2:
                nn.init.normal_(module.weight, 0.0, usual)
        for name, value in module.named_parameters(recurse=False):
            if value.dim() == 1 and bool((value == value[0]).all()):
                low, high = (-0.2, 0.2) if name.endswith("bias") else (0.7, 1.3)
                nn.init.uniform_(value, low, high)


@torch.no_grad()
def _settle_batch_norms(network: TwoHeads) -> None:
    """Statistics of noise: with those of a fresh network signals fade from layer to layer."""
    norms = [
        module
        for module in network.modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.track_running_stats
    ]
    network.eval()
    for norm in norms:
        norm.train()
        norm.momentum = 1.0
    network(network.example_input(4, seed=9))
    for norm in norms:
        norm.eval()
        norm.momentum = 0.1


@torch.no_grad()
def _require_answers(network: TwoHeads) -> None:
    """A network that says the same of any picture would make every comparison agree.

    Raises:
        RuntimeError: an output hardly moves between two pictures.
    """
    one, two = network(network.example_input(seed=0)), network(network.example_input(seed=1))
    for name, value in one.items():
        moved = float((value - two[name]).abs().max() / value.abs().max())
        if not moved > MOVES:
            raise RuntimeError(f"output '{name}' moves by {moved:.1g} of its size only")
