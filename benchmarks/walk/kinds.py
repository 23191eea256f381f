"""The commonest kinds of task, each as its training loop has it, at tiny size with random weights.

A task is the network, one batch as a loader gives it, and the loss. `wrapper` names what had to be written around the
network, if anything: its lines are counted.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

ROWS = 8


@dataclass(frozen=True)
class Kind:
    """One kind of task.

    Attributes:
        name: what it is.
        make: the network, a batch, and the loss.
        wrapper: what was written around the network.
        options: of `shrinknet.Task`.
        search: of `shrinknet.prune`.
    """

    name: str
    make: Callable[[], tuple[nn.Module, Any, Any]]
    wrapper: Callable[..., Any] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    search: Mapping[str, Any] = field(default_factory=dict)

    @property
    def num_lines(self) -> int:
        """How many lines had to be written around the network."""
        if self.wrapper is None:
            return 0
        lines = inspect.getsource(self.wrapper).splitlines()
        return sum(bool(line.strip()) and not line.strip().startswith('"""') for line in lines)


def _ids(size: int = 50, length: int = 9) -> Tensor:
    return torch.randint(3, size, (ROWS, length))


def _bert():
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(
        vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48,
        max_position_embeddings=16,
    )  # fmt: skip
    mask = (torch.arange(9) < torch.randint(4, 10, (ROWS, 1))).long()
    batch = {"input_ids": _ids(), "attention_mask": mask, "labels": torch.arange(ROWS) % 2}
    return BertForSequenceClassification(config), batch, "cross-entropy"


def _ignored(ids: Tensor) -> Tensor:
    return ids.masked_fill(torch.rand(ids.shape) < 0.2, -100)


def _gpt2():
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=50, n_embd=32, n_layer=2, n_head=4, n_positions=16, use_cache=False, bos_token_id=1, eos_token_id=1
    )
    ids = _ids()
    return GPT2LMHeadModel(config), {"input_ids": ids, "labels": _ignored(ids)}, "next-token"


def _llama():
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=8, num_key_value_heads=4,
        intermediate_size=48, use_cache=False,
    )  # fmt: skip
    ids = _ids()
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}
    return LlamaForCausalLM(config), batch, "next-token"


def _t5():
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(vocab_size=50, d_model=32, d_kv=8, num_layers=2, num_heads=4, d_ff=48, use_cache=False)
    labels = _ids(length=6)
    batch = {"input_ids": _ids(), "decoder_input_ids": functional.pad(labels[:, :-1], (1, 0)), "labels": labels}
    return T5ForConditionalGeneration(config), batch, by_token


def by_token(outputs, labels):
    """Cross-entropy at each token, tokens along the second axis."""
    return functional.cross_entropy(outputs.logits.movedim(-1, 1), labels, reduction="none").mean(1)


def _whisper():
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    config = WhisperConfig(
        vocab_size=50, d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=48, decoder_ffn_dim=48, num_mel_bins=12, max_source_positions=20,
        max_target_positions=16, pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1,
        use_cache=False,
    )  # fmt: skip
    labels = _ids(length=6)
    batch = {"input_features": torch.randn(ROWS, 12, 40), "decoder_input_ids": labels, "labels": labels}
    return WhisperForConditionalGeneration(config), batch, by_token


def _vit():
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48, image_size=16, patch_size=8
    )
    batch = {"pixel_values": torch.randn(ROWS, 3, 16, 16), "labels": torch.arange(ROWS) % 2}
    return ViTForImageClassification(config), batch, "cross-entropy"


def _pixels(classes: int, size: int) -> Tensor:
    return torch.randint(classes, (ROWS, size, size)).masked_fill(torch.rand(ROWS, size, size) < 0.1, 255)


def by_pixel(outputs, targets):
    """Cross-entropy at each pixel but those that are 255."""
    losses = functional.cross_entropy(outputs["out"], targets, ignore_index=255, reduction="none")
    return losses.flatten(1).sum(1) / (targets != 255).flatten(1).sum(1)


def _lraspp():
    from torchvision.models.segmentation import lraspp_mobilenet_v3_large

    net = lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=4)
    return net, (torch.randn(ROWS, 3, 32, 32), _pixels(4, 32)), by_pixel


def _deeplab():
    from torchvision.models.segmentation import deeplabv3_mobilenet_v3_large

    net = deeplabv3_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=4, aux_loss=True)
    return net, (torch.randn(ROWS, 3, 32, 32), _pixels(4, 32)), by_pixel


class DetectorHeads(nn.Module):
    """A detector of torchvision's as its loss sees it: without resizing before, and without boxes after."""

    def __init__(self, detector):
        super().__init__()
        self.backbone, self.head = detector.backbone, detector.head

    def forward(self, images):
        return self.head(list(self.backbone(images).values()))


def detection(outputs, targets):
    """Classes and boxes at each anchor."""
    classes, boxes = targets
    losses = functional.cross_entropy(outputs["cls_logits"].movedim(-1, 1), classes, reduction="none").mean(1)
    return losses + functional.smooth_l1_loss(outputs["bbox_regression"], boxes, reduction="none").mean((1, 2))


def _ssdlite():
    from torchvision.models.detection import ssdlite320_mobilenet_v3_large

    net = DetectorHeads(ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=4)).eval()
    images = torch.randn(ROWS, 3, 64, 64)
    with torch.no_grad():
        anchors = net(images)["cls_logits"].shape[1]
    targets = torch.randint(4, (ROWS, anchors)), torch.randn(ROWS, anchors, 4)
    return net, (images, targets), detection


def as_the_loss_sees(head, maps):
    """What a head of YOLOv8 gives in training, in eval mode too: no boxes are decoded."""
    return head.forward_head(maps, **head.one2many)


def feature_maps(outputs, targets):
    """Squares at each place of each map (the distance to a teacher's maps)."""
    maps = [one for one in torch.utils._pytree.tree_leaves(outputs) if isinstance(one, Tensor)]
    return sum((one - target).square().flatten(1).mean(1) for one, target in zip(maps, targets, strict=True))


def _yolo():
    from ultralytics.nn.tasks import DetectionModel

    net = DetectionModel("yolov8n.yaml", nc=4, verbose=False).eval()
    net.model[-1].forward = MethodType(as_the_loss_sees, net.model[-1])
    images = torch.rand(ROWS, 3, 64, 64)
    with torch.no_grad():
        maps = [one for one in torch.utils._pytree.tree_leaves(net(images)) if isinstance(one, Tensor)]
    return net, (images, tuple(torch.randn_like(one) for one in maps)), feature_maps


def _faster_rcnn():
    from torchvision.models.detection import fasterrcnn_mobilenet_v3_large_fpn

    net = fasterrcnn_mobilenet_v3_large_fpn(weights=None, weights_backbone=None, num_classes=4).backbone.eval()
    images = torch.rand(ROWS, 3, 64, 64)
    with torch.no_grad():
        maps = net(images)
    return net, (images, tuple(torch.randn_like(one) for one in maps.values())), feature_maps


class Siamese(nn.Module):
    """Two images to two embeddings."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 16),
            nn.ReLU(), nn.Linear(16, 4),
        )  # fmt: skip

    def forward(self, one, other):
        return self.body(one), self.body(other)


def contrastive(outputs, same):
    """Chopra, Hadsell, LeCun 2005: squares where two are the same, squared hinges at a margin of 1 where not."""
    distances = functional.pairwise_distance(*outputs)
    return torch.where(same, distances**2, functional.relu(1 - distances) ** 2)


def _siamese():
    images = torch.randn(2, ROWS, 1, 8, 8)
    return Siamese(), (images[0], images[1], torch.arange(ROWS) % 2 == 0), contrastive


class TwoHeads(nn.Module):
    """A class and a number."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 12), nn.ReLU())
        self.kind, self.age = nn.Linear(12, 3), nn.Linear(12, 1)

    def forward(self, x):
        hidden = self.body(x)
        return {"kind": self.kind(hidden), "age": self.age(hidden)}


def both(outputs, targets):
    """The sum of both losses."""
    kinds = functional.cross_entropy(outputs["kind"], targets["kind"], reduction="none")
    return kinds + (outputs["age"].squeeze(1) - targets["age"]).square()


def _two_heads():
    targets = {"kind": torch.arange(ROWS) % 3, "age": torch.randn(ROWS)}
    return TwoHeads(), (torch.randn(ROWS, 6), targets), both


class VAE(nn.Module):
    """An autoencoder whose code is a distribution; its mean is decoded in eval mode."""

    def __init__(self):
        super().__init__()
        self.encoder, self.latent = nn.Linear(12, 24), nn.Linear(24, 8)
        self.hidden, self.decoder = nn.Linear(4, 24), nn.Linear(24, 12)

    def forward(self, x):
        mean, log_variance = self.latent(torch.relu(self.encoder(x))).chunk(2, -1)
        code = mean + torch.randn_like(mean) * (log_variance / 2).exp() if self.training else mean
        return self.decoder(torch.relu(self.hidden(code))), mean, log_variance


def elbo(outputs, x):
    """Reconstruction and divergence (Kingma and Welling 2014)."""
    rebuilt, mean, log_variance = outputs
    return (rebuilt - x).square().sum(1) + (mean**2 + log_variance.exp() - 1 - log_variance).sum(1) / 2


def _vae():
    x = torch.randn(ROWS, 12)
    return VAE(), (x, x), elbo


def _unet():
    import small_networks

    return small_networks.UNet(), (torch.randn(ROWS, 3, 16, 16), torch.randint(2, (ROWS, 16, 16))), "cross-entropy"


def _mlp(outputs: int) -> nn.Module:
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, outputs))


def _one_logit():
    return _mlp(1), (torch.randn(ROWS, 6), (torch.arange(ROWS) % 2).float()[:, None]), nn.BCEWithLogitsLoss()


def _multi_label():
    loss = nn.BCEWithLogitsLoss(pos_weight=torch.tensor([2.0, 1.0, 3.0]))
    return _mlp(3), (torch.randn(ROWS, 6), torch.randint(2, (ROWS, 3)).float()), loss


def _counts():
    return _mlp(1), (torch.randn(ROWS, 6), torch.randint(5, (ROWS, 1)).float()), nn.PoissonNLLLoss()


class MeanAndVariance(nn.Module):
    """A mean and its variance."""

    def __init__(self):
        super().__init__()
        self.body, self.mean, self.spread = nn.Linear(6, 16), nn.Linear(16, 1), nn.Linear(16, 1)

    def forward(self, x):
        hidden = torch.relu(self.body(x))
        return self.mean(hidden), functional.softplus(self.spread(hidden))


def _mean_variance():
    return MeanAndVariance(), (torch.randn(ROWS, 6), torch.randn(ROWS, 1)), gaussian


def gaussian(outputs, targets):
    """The likelihood of a Gaussian."""
    return functional.gaussian_nll_loss(outputs[0], targets, outputs[1], reduction="none").squeeze(1)


class Forecaster(nn.Module):
    """A transformer's encoder over a time series."""

    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(16, 4, 24, batch_first=True)
        self.first, self.encoder, self.last = nn.Linear(3, 16), nn.TransformerEncoder(layer, 2), nn.Linear(16, 1)

    def forward(self, x):
        return self.last(self.encoder(self.first(x))[:, -1])


def _forecaster():
    return Forecaster(), (torch.randn(ROWS, 10, 3), torch.randn(ROWS, 1)), nn.HuberLoss()


class TCN(nn.Module):
    """Dilated causal convolutions with weight norm (Bai, Kolter, Koltun 2018)."""

    def __init__(self):
        super().__init__()
        norm = torch.nn.utils.parametrizations.weight_norm
        self.one = norm(nn.Conv1d(3, 12, 3, dilation=1))
        self.two = norm(nn.Conv1d(12, 12, 3, dilation=2))
        self.skip, self.last = nn.Conv1d(3, 12, 1), nn.Linear(12, 2)

    def forward(self, x):
        hidden = torch.relu(self.one(functional.pad(x, (2, 0))))
        hidden = torch.relu(self.two(functional.pad(hidden, (4, 0))))
        return self.last(torch.relu(hidden + self.skip(x))[..., -1])


def _tcn():
    return TCN(), (torch.randn(ROWS, 3, 16), torch.arange(ROWS) % 2), nn.CrossEntropyLoss()


class SpeakerEncoder(nn.Module):
    """Three LSTM layers and a unit vector (Wan et al. 2018)."""

    def __init__(self):
        super().__init__()
        self.lstm, self.last = nn.LSTM(10, 16, num_layers=3, batch_first=True), nn.Linear(16, 8)

    def forward(self, mel):
        embedded = torch.relu(self.last(self.lstm(mel)[1][0][-1]))
        return embedded / (embedded.norm(dim=1, keepdim=True) + 1e-5)


def _speaker():
    return SpeakerEncoder(), (torch.randn(ROWS, 12, 10), torch.arange(ROWS) % 4), triplets


def triplets(outputs, speakers):
    """Each to the mean of its speaker and away from the other means: a loss that couples the samples of a batch."""
    means = torch.stack([outputs[speakers == one].mean(0) for one in range(4)])
    return functional.cross_entropy(outputs @ means.T, speakers, reduction="none")


class CellLoop(nn.Module):
    """GRU cells in a loop of the user's own."""

    def __init__(self):
        super().__init__()
        self.cell, self.last = nn.GRUCell(4, 12), nn.Linear(12, 2)

    def forward(self, x):
        state = x.new_zeros(x.shape[0], self.cell.hidden_size)
        for step in x.unbind(1):
            state = self.cell(step, state)
        return self.last(state)


def _cells():
    return CellLoop(), (torch.randn(ROWS, 5, 4), torch.arange(ROWS) % 2), nn.CrossEntropyLoss(label_smoothing=0.1)


class VoiceDetector(nn.Module):
    """One chunk of sound at a time, with the state of a GRU from the chunk before."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv1d(1, 8, 5, stride=2), nn.ReLU(), nn.Conv1d(8, 8, 3, stride=2), nn.ReLU())
        self.gru, self.last = nn.GRU(8, 12, batch_first=True), nn.Linear(12, 1)

    def forward(self, x, state):
        hidden, state = self.gru(self.body(x).transpose(1, 2), state.transpose(0, 1))
        return self.last(hidden[:, -1]), state.transpose(0, 1)


def _detector():
    batch = (torch.randn(ROWS, 1, 32), torch.randn(ROWS, 1, 12), (torch.arange(ROWS) % 2).float()[:, None])
    return VoiceDetector(), batch, voice


def voice(outputs, targets):
    """Binary cross-entropy of the answer; the state goes to the next chunk."""
    return functional.binary_cross_entropy_with_logits(outputs[0], targets, reduction="none").squeeze(1)


def _lightning():
    from lightning import LightningModule

    class Lit(LightningModule):
        def __init__(self):
            super().__init__()
            self.net = _mlp(3)

        def forward(self, x):
            return self.net(x)

        def training_step(self, batch, number):
            return functional.cross_entropy(self(batch[0]), batch[1])

    return Lit(), (torch.randn(ROWS, 6), torch.arange(ROWS) % 3), functional.cross_entropy


def _timm():
    import timm

    net = timm.create_model("test_resnet", pretrained=False, num_classes=3, in_chans=3)
    return net, (torch.randn(ROWS, 3, 32, 32), torch.arange(ROWS) % 3), nn.CrossEntropyLoss()


def _lora():
    from peft import LoraConfig, get_peft_model

    net, batch, loss = _bert()
    adapted = get_peft_model(net, LoraConfig(target_modules=["query", "value"], r=2))
    return adapted.merge_and_unload(), batch, loss


KINDS = [
    Kind("BERT: ids and a mask from a mapping", _bert, search={"tie": "config"}),
    Kind("GPT-2: tied head, -100, next token", _gpt2, search={"tie": "config"}),
    Kind("Llama: grouped heads", _llama, search={"tie": "config", "keep": "model.embed_tokens"}),
    Kind("T5: encoder and decoder", _t5, search={"tie": "config"}),
    Kind("Whisper: mel and ids", _whisper),
    Kind("ViT", _vit, search={"tie": "config"}),
    Kind("LR-ASPP: mapping out, ignored pixels", _lraspp),
    Kind("DeepLab: mapping out, ignored pixels", _deeplab),
    Kind("SSDLite: heads as the loss sees them", _ssdlite, DetectorHeads),
    Kind("YOLOv8n: heads as the loss sees them", _yolo, as_the_loss_sees),
    Kind("Faster R-CNN: its backbone", _faster_rcnn),
    Kind("siamese, contrastive loss", _siamese),
    Kind("two heads", _two_heads),
    Kind("VAE", _vae),
    Kind("U-Net", _unet),
    Kind("one logit", _one_logit),
    Kind("multi-label", _multi_label),
    Kind("counts", _counts),
    Kind("mean and variance", _mean_variance),
    Kind("nn.TransformerEncoder over time", _forecaster),
    Kind("TCN with weight norm", _tcn),
    Kind("three-layer LSTM speaker encoder", _speaker),
    Kind("GRU cells in a loop", _cells),
    Kind("voice detector with a state", _detector),
    Kind("LightningModule", _lightning),
    Kind("timm", _timm),
    Kind("BERT with LoRA merged", _lora, search={"tie": "config"}),
]
