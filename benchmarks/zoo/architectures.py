"""The zoo: real architectures with random weights, small inputs, and statistics so random that nothing hides."""

from collections.abc import Callable
from dataclasses import dataclass

import small_networks as small
import torch
from cpu_torchvision import models
from torch import Tensor, nn

Built = tuple[nn.Module, tuple[Tensor, ...]]


@dataclass(frozen=True)
class Architecture:
    """One member of the zoo: where it comes from, its name there, and how to build it with example inputs."""

    source: str
    name: str
    make: Callable[[], Built]

    def build(self, seed: int = 0) -> Built:
        """Return the network in eval mode, with nothing left at a tidy first value, and three samples."""
        torch.manual_seed(seed)
        model, inputs = self.make()
        return (model if self.source == "trained" else randomised(model)).eval(), inputs


def randomised(model: nn.Module) -> nn.Module:
    """Draw running statistics, and all parameters that begin as constants (ones, zeros, tiny layer scales)."""
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 2)
        for parameter in model.parameters():
            is_vector, is_flat = parameter.dim() == 1, parameter.numel() > 1 and float(parameter.std()) < 1e-4
            if parameter.is_floating_point() and parameter.numel() > 1 and (is_vector or is_flat):
                parameter.normal_(1 if float(parameter.mean()) == 1 else 0, 0.3)
    return model


def _images(size: int, channels: int = 3) -> tuple[Tensor, ...]:
    return (torch.randn(3, channels, size, size),)


def _words(most: int, length: int) -> tuple[Tensor, ...]:
    return (torch.randint(0, most, (3, length)),)


def _torchvision(name: str, size: int, **options: object) -> Architecture:
    def make() -> Built:
        return getattr(models, name)(weights=None, num_classes=10, **options), _images(size)

    return Architecture("torchvision", name, make)


def _timm(name: str, size: int) -> Architecture:
    def make() -> Built:
        import timm

        try:
            return timm.create_model(name, pretrained=False, num_classes=10, img_size=size), _images(size)
        except TypeError:
            return timm.create_model(name, pretrained=False, num_classes=10), _images(size)

    return Architecture("timm", name, make)


class Wrapped(nn.Module):
    """A network of transformers whose forward returns one tensor; with two inputs, an encoder and a decoder."""

    def __init__(self, model: nn.Module, field: str = "logits") -> None:
        super().__init__()
        self.model, self.field = model, field

    def forward(self, inputs, decoder_inputs=None):
        if decoder_inputs is None:
            return getattr(self.model(inputs), self.field)
        return getattr(self.model(input_ids=inputs, decoder_input_ids=decoder_inputs), self.field)


def bert() -> Built:
    """Return a tiny BERT classifier."""
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(
        vocab_size=99, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
        max_position_embeddings=32,
    )  # fmt: skip
    return Wrapped(BertForSequenceClassification(config)), _words(99, 11)


def _distilbert() -> Built:
    from transformers import DistilBertConfig, DistilBertForSequenceClassification

    config = DistilBertConfig(vocab_size=99, dim=32, n_layers=2, n_heads=4, hidden_dim=64, max_position_embeddings=32)
    return Wrapped(DistilBertForSequenceClassification(config)), _words(99, 11)


def _gpt2() -> Built:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(vocab_size=99, n_embd=32, n_layer=2, n_head=4, n_positions=32, use_cache=False)
    return Wrapped(GPT2LMHeadModel(config)), _words(99, 11)


def _llama() -> Built:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=99, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=64, use_cache=False,
    )  # fmt: skip
    return Wrapped(LlamaForCausalLM(config)), _words(99, 11)


def _t5() -> Built:
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(vocab_size=99, d_model=32, d_kv=8, num_layers=2, num_heads=4, d_ff=64, use_cache=False)
    return Wrapped(T5ForConditionalGeneration(config)), _words(99, 11) + _words(99, 7)


def _vit() -> Built:
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, image_size=32, patch_size=8
    )
    return Wrapped(ViTForImageClassification(config)), _images(32)


def _whisper() -> Built:
    from transformers import WhisperConfig
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    config = WhisperConfig(
        d_model=32, encoder_layers=2, encoder_attention_heads=4, encoder_ffn_dim=64, num_mel_bins=20,
        max_source_positions=25,
    )  # fmt: skip
    return Wrapped(WhisperEncoder(config), "last_hidden_state"), (torch.randn(3, 20, 50),)


def _mamba() -> Built:
    from transformers import MambaConfig, MambaForCausalLM

    config = MambaConfig(vocab_size=99, hidden_size=32, num_hidden_layers=2, state_size=8, use_cache=False)
    return Wrapped(MambaForCausalLM(config)), _words(99, 11)


def _trained(name: str, maker: str, *shape: int) -> Architecture:
    def make() -> Built:
        import trained_networks

        return getattr(trained_networks, maker)(), (torch.rand(3, *shape),)

    return Architecture("trained", name, make)


SMALL = [
    Architecture("own", "LeNet (view(-1, 400))", lambda: (small.LeNet(), _images(28, 1))),
    Architecture("own", "U-Net", lambda: (small.UNet(), _images(16))),
    Architecture("own", "RNN, 3 layers", lambda: (small.Tagger(nn.RNN, 3), _words(50, 7))),
    Architecture("own", "LSTM tagger", lambda: (small.Tagger(nn.LSTM), _words(50, 7))),
    Architecture("own", "GRU tagger, 2 layers", lambda: (small.Tagger(nn.GRU, 2), _words(50, 7))),
    Architecture("own", "bidirectional LSTM tagger", lambda: (small.Tagger(nn.LSTM, 2, True), _words(50, 7))),
    Architecture("own", "LSTM, last state", lambda: (small.LastState(), (torch.randn(3, 7, 6),))),
    Architecture("own", "ConvNet, 1-D", lambda: (small.ConvNet1d(), (torch.randn(3, 3, 32),))),
    Architecture("own", "ConvNet, 3-D", lambda: (small.ConvNet3d(), (torch.randn(3, 1, 8, 8, 8),))),
    Architecture("own", "channel shuffle", lambda: (small.ChannelShuffle(), _images(8))),
    Architecture("own", "SwiGLU block, grouped queries", lambda: (small.SwiGlu(), _words(40, 9))),
    Architecture("transformers", "BERT", bert),
    Architecture("transformers", "DistilBERT", _distilbert),
    Architecture("transformers", "GPT-2", _gpt2),
    Architecture("transformers", "Llama", _llama),
    Architecture("transformers", "T5", _t5),
    Architecture("transformers", "ViT", _vit),
    Architecture("transformers", "Whisper encoder", _whisper),
    Architecture("transformers", "Mamba", _mamba),
]
"""Small enough for every run of the tests."""

TORCHVISION = [
    _torchvision("alexnet", 64), _torchvision("convnext_tiny", 64), _torchvision("densenet121", 64),
    _torchvision("efficientnet_b0", 64), _torchvision("efficientnet_v2_s", 64),
    _torchvision("googlenet", 64, init_weights=False), _torchvision("inception_v3", 96, init_weights=False),
    _torchvision("maxvit_t", 224), _torchvision("mnasnet0_5", 64), _torchvision("mobilenet_v2", 64),
    _torchvision("mobilenet_v3_small", 64), _torchvision("regnet_x_400mf", 64), _torchvision("regnet_y_400mf", 64),
    _torchvision("resnet18", 64), _torchvision("resnet50", 64), _torchvision("resnext50_32x4d", 64),
    _torchvision("wide_resnet50_2", 64), _torchvision("shufflenet_v2_x0_5", 64), _torchvision("squeezenet1_1", 64),
    _torchvision("swin_t", 64), _torchvision("swin_v2_t", 64), _torchvision("vgg11_bn", 64),
    _torchvision("vit_b_16", 64, image_size=64),
]  # fmt: skip

TIMM_SIZES = {
    "beit_base_patch16_224": 224, "halonet_h1": 256, "gernet_s": 96, "cait_xxs24_224": 224, "coat_tiny": 224,
    "convit_tiny": 224, "convmixer_768_32": 96, "test_convnext": 96, "cpubone_nano": 96, "crossvit_tiny_240": 240,
    "csatv2": 96, "cs3darknet_focus_s": 96, "cspnext_tiny": 96, "davit_tiny": 96, "deit_tiny_patch16_224": 224,
    "dla46x_c": 96, "dpn48b": 96, "edgenext_xx_small": 96, "efficientformer_l1": 224, "efficientformerv2_s0": 224,
    "efficientvim_m1": 96, "efficientvit_b0": 96, "efficientvit_m0": 224, "eva02_tiny_patch14_224": 224,
    "fasternet_t0": 96, "fastvit_t8": 96, "focalnet_tiny_srf": 96, "gcvit_xxtiny": 224, "ghostnet_050": 96,
    "hardcorenas_b": 96, "hgnetv2_b0": 96, "hiera_tiny_224": 224, "hrnet_w18_small": 96, "iformer_t": 96,
    "inception_next_atto": 96, "inception_resnet_v2": 96, "inception_v4": 96, "lcnetv2_small": 96, "levit_128s": 224,
    "lowformer_b0": 96, "test_mambaout": 96, "maxvit_pico_rw_256": 256, "poolformerv2_s12": 96, "gmlp_ti16_224": 224,
    "lcnet_035": 96, "mobilevit_xxs": 96, "mvitv2_tiny": 224, "nest_tiny": 224, "nextvit_small": 96,
    "test_nfnet": 96, "pit_ti_224": 224, "pvt_v2_b0": 96, "rdnet_tiny": 96, "regnetx_002": 96, "repghostnet_050": 96,
    "repvit_m1": 96, "res2next50": 96, "resnest14d": 96, "resnet10t": 96, "resnetv2_18": 96, "rexnet_100": 96,
    "selecsls42": 96, "legacy_seresnet18": 96, "sequencer2d_s": 224, "shvit_s1": 96, "skresnet18": 96,
    "starnet_s050": 96, "swiftformer_xs": 224, "swin_tiny_patch4_window7_224": 224, "swinv2_tiny_window8_256": 256,
    "swinv2_cr_tiny_224": 224, "tiny_vit_5m_224": 96, "tnt_s_legacy_patch16_224": 224, "tresnet_m": 96,
    "twins_svt_small": 224, "visformer_tiny": 224, "test_vit": 160, "vit_tiny_r_s16_p8_224": 224,
    "test_vit_relpos": 160, "samvit_base_patch16_224": 224, "vitamin_small_224": 224, "volo_d1_224": 224,
    "ese_vovnet19b_slim_dw": 96, "legacy_xception": 96, "xception41p": 96, "xcit_nano_12_p8_224": 224,
}  # fmt: skip
"""The smallest member of each family, and the side of its images."""

TRAINED = [
    _trained("MLPerf Tiny ResNet8", "resnet8", 3, 32, 32),
    _trained("MLPerf Tiny MobileNet", "mobilenet", 3, 96, 96),
    _trained("MLPerf Tiny autoencoder", "trained_autoencoder", 640),
    _trained("ST activity network", "activity", 3, 26),
]

ALL = [*SMALL, *TRAINED, *TORCHVISION, *(_timm(name, size) for name, size in TIMM_SIZES.items())]
