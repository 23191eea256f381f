"""Real trained networks on real data: MLPerf Tiny's three beside their makers' .tflite files, and ST's activity network."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import shrinknet as sn

NUM_IMAGES = 1200


@pytest.fixture
def resnet8(real_data) -> nn.Module:
    import trained_networks

    return trained_networks.resnet8()


def pixels(real_data: Path, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Some of CIFAR-10's test images, uint8 [count, 32, 32, 3], and their classes."""
    from PIL import Image

    file = np.load(real_data / "cifar10" / "test.npz", allow_pickle=False)
    chosen = np.random.default_rng(0).permutation(len(file["label"]))[:count]
    jpeg, offset = file["jpeg"], file["offset"]
    images = [np.asarray(Image.open(io.BytesIO(jpeg[offset[k] : offset[k + 1]].tobytes()))) for k in chosen]
    return np.stack(images), file["label"][chosen].astype(np.int64)


@pytest.fixture
def images(real_data) -> tuple[torch.Tensor, torch.Tensor]:
    rows, labels = pixels(real_data, NUM_IMAGES)
    return torch.from_numpy(rows.astype(np.float32)).permute(0, 3, 1, 2).contiguous(), torch.from_numpy(labels)


def by_tflite(path: Path, rows: np.ndarray) -> np.ndarray:
    """What the makers' file answers, row by row, by its own runtime; int8 is scaled in and out."""
    interpreter = pytest.importorskip("ai_edge_litert.interpreter").Interpreter(str(path))
    interpreter.allocate_tensors()
    given, out = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    answers = []
    for row in rows:
        if given["dtype"] == np.int8:
            scale, zero = given["quantization"]
            row = np.clip(np.round(row / scale + zero), -128, 127)
        interpreter.set_tensor(given["index"], row[None].astype(given["dtype"]))
        interpreter.invoke()
        answer = interpreter.get_tensor(out["index"])[0]
        if out["dtype"] == np.int8:
            scale, zero = out["quantization"]
            answer = (answer.astype(np.float32) - zero) * scale
        answers.append(answer)
    return np.stack(answers)


def test_the_rebuilt_resnet8_is_its_makers_file(resnet8, real_data) -> None:
    rows = pixels(real_data, 64)[0].astype(np.float32)
    theirs = by_tflite(real_data / "mlperf-tiny" / "image_classification" / "pretrainedResnet.tflite", rows)
    with torch.no_grad():
        ours = resnet8(torch.from_numpy(rows).permute(0, 3, 1, 2)).softmax(1)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)


def test_the_rebuilt_mobilenet_is_its_makers_file_but_for_int8(real_data) -> None:
    from PIL import Image
    from trained_networks import mobilenet

    large = [np.asarray(Image.fromarray(image).resize((96, 96))) for image in pixels(real_data, 64)[0]]
    rows = np.stack(large).astype(np.float32) / 255
    theirs = by_tflite(real_data / "mlperf-tiny" / "visual_wake_words" / "vww_96_int8.tflite", rows)
    with torch.no_grad():
        ours = mobilenet()(torch.from_numpy(rows).permute(0, 3, 1, 2)).softmax(1).numpy()
    assert (ours.argmax(1) == theirs.argmax(1)).mean() >= 0.95
    assert np.corrcoef(ours[:, 1], theirs[:, 1])[0, 1] > 0.95


def test_the_rebuilt_autoencoder_is_its_makers_file_but_for_int8(real_data) -> None:
    from trained_networks import trained_autoencoder

    folder = real_data / "mlperf-tiny" / "anomaly_detection"
    sound = np.fromfile(folder / "normal_id_01_00000000_hist_librosa.bin", np.float32).reshape(200, 128)
    rows = np.stack([sound[start : start + 5].ravel() for start in range(0, 196, 4)])
    theirs = by_tflite(folder / "ad01_int8.tflite", rows)
    with torch.no_grad():
        ours = trained_autoencoder()(torch.from_numpy(rows)).numpy()
    assert np.abs(ours - theirs).mean() < 0.5 * np.abs(ours - rows).mean()
    assert np.corrcoef(ours.ravel(), theirs.ravel())[0, 1] > 0.99


def test_the_activity_network_knows_its_recordings_and_half_of_it_still_does(real_data) -> None:
    from trained_networks import activity

    file = np.load(real_data / "sensor" / "stm32_har.npz", allow_pickle=False)
    rows, labels = [], []
    for begin, end, label in zip(file["offset"], file["offset"][1:], file["label"], strict=False):
        windows = file["acc_mg"][begin:end][: (end - begin) // 26 * 26].reshape(-1, 26, 3)
        rows.append(windows.transpose(0, 2, 1) / np.float32(4000))
        labels += [int(label)] * len(windows)
    inputs, targets = torch.from_numpy(np.concatenate(rows)), torch.tensor(labels)
    order = torch.randperm(len(targets), generator=torch.Generator().manual_seed(0))
    parts = [(inputs[part], targets[part]) for part in order.split(len(order) // 3)[:3]]
    task = sn.Task(activity(), "cross-entropy", *parts)
    run = sn.prune(task, "taylor-2", goals=[sn.RemovedFraction(0.5)], step=4)
    assert run.test.metrics_before["accuracy"] > 0.97
    assert run.test.metrics_after["accuracy"] > 0.9
    assert run.verification.holds
    assert run.model.dense1.in_features == 22 * run.model.conv2.out_channels


def test_every_channel_of_resnet8_can_go_but_the_outputs(resnet8) -> None:
    traced = sn.trace(resnet8, torch.randn(2, 3, 32, 32))
    widths = {group.name: group.width for group in traced.groups}
    assert widths == {
        "stem": 16, "blocks.0.conv1": 16, "blocks.1.conv1": 32, "blocks.1.conv2": 32, "blocks.2.conv1": 64,
        "blocks.2.conv2": 64,
    }  # fmt: skip
    stem = {part.parameter for part in traced.groups[0].slices if part.role == "writes"}
    assert "blocks.0.conv2.weight" in stem, "the residual sum couples the stem with the first block's output"


def test_resnet8_is_shrunk_proven_and_still_knows_its_images(resnet8, images) -> None:
    inputs, targets = images
    rows = [(inputs[a:b], targets[a:b]) for a, b in ((0, 128), (400, 800), (800, 1200))]
    task = sn.Task(resnet8, "cross-entropy", *rows)
    run = sn.prune(task, "ablation", goals=[sn.RemovedNeurons(12)], guards=[sn.AccuracyDrop("5%")], step=3)
    start, end = run.history[0].measures, run.measures
    assert start.metrics["accuracy"] > 0.7
    assert start.costs.num_parameters + 2 * 240 == 78666, "its makers count the running statistics too"
    assert run.is_met
    assert end.costs.num_parameters < 0.92 * start.costs.num_parameters
    assert run.verification.holds
    assert run.test.metrics_before["accuracy"] - run.test.metrics_after["accuracy"] < 0.05
    small = run.model
    assert sum(parameter.numel() for parameter in small.parameters()) == end.costs.num_parameters
    again = float((small(rows[2][0]).argmax(1) == rows[2][1]).double().mean())
    assert again == pytest.approx(run.test.metrics_after["accuracy"], abs=2.6e-3)
