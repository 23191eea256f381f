"""Small networks of every kind, written the way people write them: with sizes in the source, loops, concatenations."""

import torch
from torch import nn
from torch.nn import functional


class LeNet(nn.Module):
    """A width is written into the source: view(-1, 400)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 6, 5, padding=2), nn.Conv2d(6, 16, 5)
        self.fc1, self.fc2, self.fc3 = nn.Linear(400, 120), nn.Linear(120, 84), nn.Linear(84, 10)

    def forward(self, x):
        x = functional.max_pool2d(torch.relu(self.conv1(x)), 2)
        x = functional.max_pool2d(torch.relu(self.conv2(x)), 2).view(-1, 400)
        return self.fc3(torch.relu(self.fc2(torch.relu(self.fc1(x)))))


class UNet(nn.Module):
    """Down by pooling, up by a transposed convolution, joined by concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2, self.middle = self._pair(3, 12), self._pair(12, 16), self._pair(16, 24)
        self.up2, self.after2 = nn.ConvTranspose2d(24, 16, 2, 2), self._pair(32, 16)
        self.up1, self.after1 = nn.ConvTranspose2d(16, 12, 2, 2), self._pair(24, 12)
        self.head = nn.Conv2d(12, 2, 1)

    def _pair(self, before: int, after: int) -> nn.Sequential:
        return nn.Sequential(
            nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU(inplace=True),
            nn.Conv2d(after, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU(inplace=True),
        )  # fmt: skip

    def forward(self, x):
        one = self.down1(x)
        two = self.down2(functional.max_pool2d(one, 2))
        up = self.up2(self.middle(functional.max_pool2d(two, 2)))
        up = self.up1(self.after2(torch.cat([up, two], 1)))
        return self.head(self.after1(torch.cat([up, one], 1)))


class Tagger(nn.Module):
    """An embedding, a recurrent network, an answer for each word."""

    def __init__(self, kind: type[nn.RNNBase], layers: int = 1, bidirectional: bool = False) -> None:
        super().__init__()
        self.words = nn.Embedding(50, 12)
        self.rnn = kind(12, 16, layers, batch_first=True, bidirectional=bidirectional)
        self.head = nn.Linear(16 * (1 + bidirectional), 5)

    def forward(self, words):
        outputs, _ = self.rnn(self.words(words))
        return self.head(outputs)


class LastState(nn.Module):
    """A classifier that reads the last hidden state of the upper layer."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.head = nn.LSTM(6, 16, 2, batch_first=True), nn.Linear(16, 3)

    def forward(self, x):
        _, (hidden, _) = self.rnn(x)
        return self.head(hidden[-1])


class ConvNet1d(nn.Module):
    """A one-dimensional network for signals: dilated and grouped convolutions, group and layer norms."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv1d(3, 16, 5, padding=2), nn.GroupNorm(4, 16), nn.GELU(),
            nn.Conv1d(16, 24, 3, padding=2, dilation=2, groups=2), nn.InstanceNorm1d(24, affine=True), nn.SiLU(),
            nn.AvgPool1d(2), nn.Conv1d(24, 24, 3, padding=1, groups=24), nn.Conv1d(24, 32, 1), nn.GroupNorm(1, 32),
        )  # fmt: skip
        self.norm, self.head = nn.LayerNorm(32), nn.Linear(32, 4)

    def forward(self, x):
        return self.head(self.norm(self.body(x).mean(2)))


class ConvNet3d(nn.Module):
    """A three-dimensional network with pooling and a transposed convolution, grouped."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm = nn.Conv3d(1, 8, 3, padding=1), nn.BatchNorm3d(8)
        self.up, self.conv2 = nn.ConvTranspose3d(8, 12, 2, 2, groups=2), nn.Conv3d(12, 6, 3, padding=1)
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        x = functional.max_pool3d(torch.relu(self.norm(self.conv1(x))), 2)
        x = functional.adaptive_avg_pool3d(torch.relu(self.conv2(torch.relu(self.up(x)))), 1)
        return self.head(x.flatten(1))


class ChannelShuffle(nn.Module):
    """Halves that go different ways and are shuffled together, with a squeeze-and-excitation gate."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.branch = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.squeeze, self.excite = nn.Conv2d(16, 4, 1), nn.Conv2d(4, 16, 1)
        self.head = nn.Linear(16, 5)

    def forward(self, x):
        x = torch.relu(self.stem(x))
        left, right = x.chunk(2, 1)
        x = torch.cat([left, torch.relu(self.branch(right))], 1)
        batch, channels, height, width = x.shape
        x = x.view(batch, 2, channels // 2, height, width).transpose(1, 2).reshape(batch, channels, height, width)
        gate = torch.sigmoid(self.excite(torch.relu(self.squeeze(x.mean((2, 3), keepdim=True)))))
        return self.head((x * gate).mean((2, 3)))


class SwiGlu(nn.Module):
    """A transformer block by hand: tied embedding, RMS norm, grouped queries, a gated feed-forward network."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(40, 16), nn.Parameter(torch.randn(9, 16))
        self.norm1, self.norm2, self.norm3 = (nn.RMSNorm(16) for _ in range(3))
        self.query, self.key, self.value = nn.Linear(16, 32), nn.Linear(16, 16), nn.Linear(16, 16)
        self.out, self.gate, self.up, self.down = (
            nn.Linear(32, 16), nn.Linear(16, 24), nn.Linear(16, 24), nn.Linear(24, 16)
        )  # fmt: skip

    def forward(self, words):
        x = self.words(words) + self.places
        y = self.norm1(x)
        query, key, value = (
            layer(y).unflatten(-1, (-1, 8)).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        y = self.norm2(x)
        x = x + self.down(functional.silu(self.gate(y)) * self.up(y))
        return self.norm3(x) @ self.words.weight.T
