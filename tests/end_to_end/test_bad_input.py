"""Every bad input: exit status 2, one clear sentence, no traceback, nothing written or lost."""

import contextlib
import pickle
import re
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import torch

FACTORY = ("nets_of_a_stranger:build", "--weights", "weights.safetensors")
DATA = ("--data", "data.npz")


@pytest.fixture
def bad(folder):
    """Damaged and hostile files, by name."""
    arrays = dict(np.load(folder / "data.npz"))
    (folder / "truncated.pt2").write_bytes((folder / "net.pt2").read_bytes()[:3000])
    (folder / "text.pt2").write_text("not a network")
    (folder / "truncated.npz").write_bytes((folder / "data.npz").read_bytes()[:5000])
    (folder / "truncated.safetensors").write_bytes((folder / "weights.safetensors").read_bytes()[:500])
    (folder / "net.h5").write_bytes(b"something else")
    torch.save(torch.nn.Linear(2, 2), folder / "whole.pt")
    (folder / "pickled.npz").write_bytes(b"")
    np.savez(folder / "pickled.npz", inputs=arrays["inputs"], targets=np.array([{"a": 1}] * len(arrays["inputs"])))
    np.savez(folder / "no_targets.npz", inputs=arrays["inputs"])
    np.savez(folder / "uneven.npz", inputs=arrays["inputs"], targets=arrays["targets"][:-1])
    np.savez(folder / "class_10.npz", **{**arrays, "targets": arrays["targets"] + 1})
    np.savez(folder / "no_test.npz", **{**arrays, "split": np.minimum(arrays["split"], 1)})
    np.savez(folder / "split_3.npz", **{**arrays, "split": arrays["split"] + 1})
    np.savez(folder / "text.npz", inputs=np.array(["a"] * 9), targets=np.arange(9))
    np.savez(folder / "column.npz", **{**arrays, "targets": arrays["targets"][:, None].astype(np.float32)})
    np.savez(folder / "floats.npz", **{**arrays, "targets": arrays["targets"].astype(np.float32)})
    np.savez(folder / "int_column.npz", **{**arrays, "targets": arrays["targets"][:, None]})
    np.save(folder / "array.npy", arrays["inputs"])
    np.savez(folder / "narrow.npz", **{**arrays, "inputs": arrays["inputs"][:, :63]})
    holed = arrays["inputs"].copy()
    holed[700, 5] = np.nan
    np.savez(folder / "nan.npz", **{**arrays, "inputs": holed})
    state = dict(
        torch.nn.Sequential(
            torch.nn.Linear(64, 24), torch.nn.ReLU(), torch.nn.Linear(24, 16), torch.nn.ReLU(), torch.nn.Linear(16, 10)
        ).state_dict()
    )
    state["2.weight"][3, 4] = float("inf")
    from safetensors.torch import save_file

    save_file(state, folder / "inf.safetensors")
    return folder


CASES = {
    "no model file": (("rank", "nowhere.pt2", *DATA), "MODEL must be a file that exists. Got 'nowhere.pt2'."),
    "no data file": (("rank", *FACTORY, "--data", "nowhere.npz"), "--data must be a file that exists. Got 'nowhere.npz'."),
    "no weights file": (("rank", FACTORY[0], "--weights", "no.safetensors", *DATA),
                        "--weights must be a file that exists. Got 'no.safetensors'."),
    "truncated model": (("rank", "truncated.pt2", *DATA), "MODEL must be a .pt2 file written by torch.export.save. Got 'trunc"),
    "model of another kind": (("rank", "text.pt2", *DATA), "MODEL must be a .pt2 file written by torch.export.save. Got 'text"),
    "model of another ending": (("rank", "net.h5", *DATA), "MODEL must be a .pt2 file, an .onnx file or package.module:factory. Got 'net.h5'."),
    "truncated data": (("rank", *FACTORY, "--data", "truncated.npz"), "--data must be an .npz file of plain arrays. Got 'trunc"),
    "truncated weights": (("rank", FACTORY[0], "--weights", "truncated.safetensors", *DATA),
                          "--weights must be a .safetensors file. Got 'truncated.safetensors', which cannot be read"),
    "pickled model": (("rank", "whole.pt", *DATA), "MODEL must be a .pt2 file. Got 'whole.pt', which is a pickle and could run any code."),
    "pickled weights": (("rank", FACTORY[0], "--weights", "whole.pt", *DATA),
                        "--weights must be a .safetensors file. Got 'whole.pt', which is a pickle and could run any code."),
    "pickled data": (("rank", *FACTORY, "--data", "pickled.npz"), "--data must be an .npz file of plain arrays. Got 'pickled.npz', which holds a pickle."),
    "weights that do not fit": (("rank", "nets_of_a_stranger:wider", *FACTORY[1:], *DATA),
                                "--weights must be weights that fit the network. Got 'weights.safetensors': size mismatch for 0.weight"),
    "weights for other names": (("rank", "nets_of_a_stranger:dropping", *FACTORY[1:], *DATA),
                                "--weights must be weights that fit the network. Got 'weights.safetensors': nothing for 'one.weight'."),
    "weights beside a pt2": (("rank", "net.pt2", "--weights", "weights.safetensors", *DATA), "--weights must be used with a factory. Got a model file 'net.pt2'."),
    "no such module": (("rank", "no_such_module:build", *DATA), "MODEL must be package.module:name that can be imported. Got 'no_such_module:build'"),
    "no such factory": (("rank", "nets_of_a_stranger:buld", *DATA), "MODEL must be a name in nets_of_a_stranger. Got 'buld'. Did you mean 'build'?"),
    "a factory of something else": (("rank", "nets_of_a_stranger:not_a_network", *DATA), "MODEL must be a factory that returns an nn.Module. Got int."),
    "an input shape that the model refuses": (("rank", *FACTORY, "--data", "narrow.npz"),
                                              "inputs must be of a shape and dtype that the model takes. Got [64, 63] float32. The model said: "),
    "inputs of another rank": (("rank", "nets_of_a_stranger:images", *DATA), "inputs must be of a shape and dtype that the model takes. Got [64, 64] float32."),
    "a class too many": (("rank", *FACTORY, "--data", "class_10.npz"), "calibration targets must be classes from 0 to 9. Got class 10."),
    "NaN in the inputs": (("rank", *FACTORY, "--data", "nan.npz"), "inputs must be finite numbers. Got NaN or infinity in row"),
    "infinity in the weights": (("rank", FACTORY[0], "--weights", "inf.safetensors", *DATA),
                                "model must be a network with finite weights. Got NaN or infinity in '2.weight'."),
    "NaN in the loss": (("rank", *FACTORY, *DATA, "--loss", "nets_of_a_stranger:nan_loss"),
                        "--loss must be finite on every sample. Got nan for sample 0 of a batch ('nan_loss')."),
    "a loss that averages": (("rank", *FACTORY, *DATA, "--loss", "nets_of_a_stranger:mean_loss"),
                             "--loss must be a function that returns one value for each sample, shape [64]. Got shape [] from 'mean_loss'."),
    "an empty split": (("rank", *FACTORY, "--data", "no_test.npz"),
                       "--data must be rows for each of calibration, validation and test. Got an empty split: no row has split 2 (test)."),
    "no targets": (("rank", *FACTORY, "--data", "no_targets.npz"), "calibration targets must be one tensor for cross-entropy. Got nothing. Give one for each row, or say --loss own-answers, which needs none."),
    "fewer targets": (("rank", *FACTORY, "--data", "uneven.npz"), "--data must be as many targets as inputs. Got 1797 inputs and 1796 targets."),
    "a role misspelt": (("rank", *FACTORY, "--data", "nets_of_a_stranger:misnamed"), "Got 'validtion'. Did you mean 'validation'?"),
    "an unknown criterion": (("rank", *FACTORY, *DATA, "--criterion", "taylor2"), "--criterion must be the name of a criterion. Got 'taylor2'. Did you mean 'taylor-2'?"),
    "an unknown loss": (("rank", *FACTORY, *DATA, "--loss", "crossentropy"), "--loss must be the name of a loss. Got 'crossentropy'. Did you mean 'cross-entropy'?"),
    "an unknown method": (("prune", *FACTORY, *DATA, "--out", "run", "--method", "re-ranking"), "--method must be one of reranking, single-ranking. Got 're-ranking'. Did you mean 'reranking'?"),
    "an unknown group": (("rank", *FACTORY, *DATA, "--keep", "layer1"), "--keep must be a glob of group names. Got 'layer1'. There are: 0, 2."),
    "an unknown clip": (("rank", *FACTORY, *DATA, "--clip", "max"), "--clip must be one of none, mean, median. Got 'max'."),
    "nothing to remove": (("rank", "nets_of_a_stranger:single", *DATA), "model must be a network with neurons that can be removed. Got one where every neuron is frozen"),
    "dropout left on": (("rank", "nets_of_a_stranger:dropping", *DATA), "model must be a network that answers the same twice. Got two different answers to the same rows."),
    "a budget that is none": (("prune", *FACTORY, *DATA, "--out", "run", "--flash", "64Q"), "--flash must be a number of bytes such as 64KiB. Got '64Q'."),
    "a removal that is none": (("prune", *FACTORY, *DATA, "--out", "run", "--remove", "0.6"), "--remove must be a number of neurons or a percentage. Got '0.6'."),
    "a drop beyond all": (("prune", *FACTORY, *DATA, "--out", "run", "--max-accuracy-drop", "120%"), "--max-accuracy-drop must be a fraction from 0 to 1 or a percentage from 0% to 100%. Got '120%'."),
    "a step of none": (("prune", *FACTORY, *DATA, "--out", "run", "--step", "0"), "--step must be a whole number of at least 1. Got 0."),
    "a guard without its data": (("prune", *FACTORY, "--data", "nets_of_a_stranger:only_calibration", "--out", "run", "--max-accuracy-drop", "1%"), "--max-accuracy-drop must be used with validation data whose targets are classes. Got a task without it."),
    "a split of another number": (("rank", *FACTORY, "--data", "split_3.npz"), "--data must be an array 'split' of 0, 1 and 2, one for each row. Got"),
    "text in the data": (("rank", *FACTORY, "--data", "text.npz"), "--data must be an .npz file of plain arrays. Got 'text.npz', whose 'inputs' is <U1 of shape [9]."),
    "an .npy file": (("rank", *FACTORY, "--data", "array.npy"), "--data must be an .npz file of plain arrays. Got 'array.npy', which is no .npz archive."),
    "a column of floats": (("rank", *FACTORY, "--data", "column.npz"), "calibration targets must be of the outputs' shape [N, 10]. Got float32 of shape [N, 1]."),
    "classes as floats": (("rank", *FACTORY, "--data", "floats.npz"), "calibration targets must be of the outputs' shape [N, 10]. Got float32 of shape [N]."),
    "a column of classes": (("rank", *FACTORY, "--data", "int_column.npz"), "calibration targets must be classes, one for each sample. Got int64 of shape [N, 1]."),
    "one output and cross-entropy": (("rank", "nets_of_a_stranger:regression", *DATA), "--loss must be squared-error or your own where the network has one output. Got cross-entropy."),
    "a factory that wants arguments": (("rank", "torch.nn:Linear", *DATA), "MODEL must be a factory that can be called without arguments. Got 'torch.nn:Linear', which said: TypeError"),
    "a loss of another kind": (("rank", *FACTORY, *DATA, "--loss", "math:sqrt"), "--loss must be a function of outputs and targets that returns one value for each sample. Got 'sqrt', which said: TypeError"),
    "a number that is none": (("prune", *FACTORY, *DATA, "--out", "run", "--remove", "²"), "--remove must be a number of neurons or a percentage. Got '²'."),
    "kilos": (("prune", *FACTORY, *DATA, "--out", "run", "--flash", "64 kilos"), "--flash must be a number of bytes such as 64KiB. Got '64 kilos'. Write digits and one of B, kB, KiB, MB or MiB."),
    "RAM that is no size": (("prune", *FACTORY, *DATA, "--out", "run", "--ram", "lots"), "--ram must be a number of bytes such as 64KiB. Got 'lots'."),
    "RAM of a file without a plan": (("prune", *FACTORY, *DATA, "--out", "run", "--ram", "4KiB", "--to", "weights"), "--ram must be used with an artefact whose memory is planned: --to executorch in float32, or --to cortex-m in int8. Got --to weights."),
    "an unknown artefact": (("prune", *FACTORY, *DATA, "--out", "run", "--to", "tflite"), "--to must be the name of an exporter. Got 'tflite'. There are: cortex-m, executorch, onnx, pt2, weights."),
    "an unknown price": (("prune", *FACTORY, *DATA, "--out", "run", "--price", "gold"), "--price must be one of auto, neuron, parameters, flash, ram, macs, budget. Got 'gold'."),
    "an unknown compensation": (("prune", *FACTORY, *DATA, "--out", "run", "--compensate", "retrain"), "--compensate must be one of auto, none, mean, constant, scale, least-squares, newton, joint. Got 'retrain'."),
    "a latency without a unit": (("prune", *FACTORY, *DATA, "--out", "run", "--max-latency", "5", "--to", "onnx"), "--max-latency must be a time such as 5ms. Got '5'. Write digits and one of us, ms or s."),
    "workers and compensation": (("prune", *FACTORY, *DATA, "--out", "run", "--compensate", "mean", "--executor", "processes"), "--compensate must be none where workers score. Got 'mean'. Use --executor serial."),
    "an endless number": (("prune", *FACTORY, *DATA, "--out", "run", "--flash", "9" * 400), "--flash must be a number of bytes such as 64KiB. Got one beyond all bounds."),
    "a list that cannot be written": (("rank", *FACTORY, *DATA, "--criterion", "magnitude", "--out", "nowhere/x.csv"), "No such file or directory: 'nowhere/x.csv'"),
    "no run there": (("verify", "nowhere"), "RUN must be a run folder, written by 'shrinknet prune'. Got 'nowhere', which has no config.json."),
    "a shape beside a pt2": (("inspect", "net.pt2", "--example-input", "64"), "--example-input must be used with a factory. Got a model file 'net.pt2'."),
    "another shape than the data's": (("rank", *FACTORY, *DATA, "--example-input", "8x8"), "--example-input must be the shape of the data's rows [64]. Got 8x8."),
    "no shape for a factory": (("inspect", FACTORY[0]), "--example-input must be given with a factory. Got nothing."),
    "a shape that is none": (("inspect", FACTORY[0], "--example-input", "8by8"), "--example-input must be the shape of one sample such as 1x28x28. Got '8by8'."),
    "no MNIST": (("reproduce", "isnn-mnist-1x100", "--data", "nowhere"), "--data must be a folder that holds mnist/ with the four original MNIST files (*-ubyte.gz). Got 'nowhere'."),
    "an unknown recipe": (("reproduce", "isnn-mnist-1x10"), "NAME must be the name of a recipe. Got 'isnn-mnist-1x10'. Did you mean 'isnn-mnist-1x100'?"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_bad_input_ends_with_status_2_and_one_sentence(case: str, bad, type_command) -> None:
    words, sentence = CASES[case]
    before = sorted(path.name for path in bad.iterdir())
    answer = type_command(*words)
    assert sentence in answer.err
    assert answer.status == 2
    assert answer.out == ""
    assert "Traceback" not in answer.err
    assert sorted(path.name for path in bad.iterdir() if path.name != "__pycache__") == [
        n for n in before if n != "__pycache__"
    ]


DAMAGE = {
    "config.json": ["[]", "{}", "not json"],
    "groups.json": ["{}", "[]"],
    "plan.json": [
        "{}",
        "[]",
        '{"removed": ["0"], "remaining": []}',
        '{"removed": [["0", 1], ["0", 1]], "remaining": []}',
    ],
    "summary.json": ["{}", "[]"],
    "history.csv": ["", "step,group\n1,2\n", "\udcff"],
    "original.pt2": ["junk"],
}


@pytest.mark.parametrize("verb", ["verify", "cut", "report"])
def test_a_damaged_run_folder_ends_with_status_2(verb: str, type_command, tmp_path) -> None:
    out = tmp_path / "run"
    assert type_command("prune", *FACTORY, *DATA, "--criterion", "magnitude", "--remove", "3", "--out", out).status == 0
    more = ("--remove", "1", "--out", tmp_path / "smaller") if verb == "cut" else ()
    for name, contents in DAMAGE.items():
        whole = (out / name).read_bytes()
        for content in contents:
            (out / name).write_bytes(content.encode(errors="surrogateescape"))
            answer = type_command(verb, out, *more)
            if (verb == "report" and name in {"original.pt2", "plan.json"}) or (verb, name, content) == (
                "report",
                "config.json",
                "{}",
            ):
                continue  # the page does not read it, or says less
            assert answer.status == 2, (name, content, answer.err)
            assert "Traceback" not in answer.err
            assert answer.err.count("Got ") == 1, answer.err
        (out / name).write_bytes(whole)
    assert type_command(verb, out, *more).status == 0


def test_an_unknown_option_ends_with_status_2(type_command) -> None:
    answer = type_command("rank", *FACTORY, *DATA, "--criterium", "ablation")
    assert answer.status == 2
    assert "--criterium" in answer.err
    assert "--criterion" in answer.err


def test_a_real_process_ends_so_too(bad) -> None:
    words = [sys.executable, "-m", "shrinknet", "rank", *FACTORY, "--data", "nan.npz"]
    done = subprocess.run(words, cwd=bad, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert "Got NaN or infinity in row" in done.stderr
    assert "Traceback" not in done.stderr


def test_nan_says_in_which_row_and_role(type_command, bad) -> None:
    split = np.load(bad / "data.npz")["split"]
    role = ("calibration", "validation", "test")[split[700]]
    row = int((split[:700] == split[700]).sum())
    answer = type_command("rank", *FACTORY, "--data", "nan.npz")
    assert f"{role} inputs must be finite numbers. Got NaN or infinity in row {row}." in answer.err


def test_a_run_folder_is_never_overwritten(type_command, folder, tmp_path) -> None:
    out = tmp_path / "run"
    prune = ("prune", *FACTORY, *DATA, "--criterion", "magnitude", "--remove", "3", "--out", out)
    assert type_command(*prune).status == 0
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    again = type_command(*prune)
    assert again.status == 2
    assert f"--out must be a new or empty folder. Got '{out}', which holds another run." in again.err
    other = type_command(*prune, "--resume", "--criterion", "taylor-1")
    assert other.status == 2
    assert (
        "--resume must come with the options that the run began with. Got criterion = 'taylor-1', the run has 'magnitude'."
        in other.err
    )
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "diary.txt").write_text("mine")
    strange = type_command(*prune[:-1], tmp_path / "mine")
    assert strange.status == 2
    assert "which holds other files. Name another folder." in strange.err
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["diary.txt"]


def test_a_budget_out_of_reach_is_refused_at_the_start_and_its_whole_curve_ends_with_status_1(
    type_command, tmp_path
) -> None:
    out = tmp_path / "run"
    prune = ("prune", *FACTORY, *DATA, "--criterion", "taylor-1", "--flash", "100", "--out", out)
    refused = type_command(*prune)
    assert refused.status == 2
    assert re.search(r"at least 740 of [\d,]+ bytes of flash stay", " ".join(refused.err.split()))
    assert not out.exists()
    answer = type_command(*prune, "--whole-curve")
    assert answer.status == 1
    assert f"Not met; the nearest model is {out / 'model.pt2'}." in answer.err
    assert "stopped: one neuron is left in each group; at most 100 bytes of flash not met: it is 740." in answer.err
    assert (out / "model.pt2").is_file()
    assert (out / "model.safetensors").stat().st_size > 100


class Shell:
    """What a hostile pickle does when it is loaded."""

    def __init__(self, path) -> None:
        self.path = path

    def __reduce__(self):
        import os

        return os.system, (f"touch {self.path}",)


def replace_member(source, target, ending: str, content: bytes, new_name: str | None = None) -> None:
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as new:
        for item in old.infolist():
            if item.filename.endswith(ending) and new_name is None:
                new.writestr(item.filename, content)
            else:
                new.writestr(item.filename, old.read(item.filename))
        if new_name is not None:
            new.writestr(new_name, content)


@pytest.mark.parametrize("way", ["pickle", "expression", "operator", "pickled weight", "library", "guard"])
def test_a_crafted_pt2_runs_nothing(way: str, folder, tmp_path, type_command) -> None:
    crafted, trophy = tmp_path / "net.pt2", tmp_path / "i-was-here"
    source = folder / "net.pt2"
    with zipfile.ZipFile(source) as archive:
        prefix = archive.namelist()[0].partition("/")[0]
        program = archive.read(f"{prefix}/models/model.json").decode()
        table = archive.read(f"{prefix}/data/weights/model_weights_config.json").decode()
    shell = f"__import__('os').system('touch {trophy}')"
    if way == "pickle":
        replace_member(source, crafted, "sample_inputs/model.pt", pickle.dumps(Shell(trophy)))
    elif way == "expression":
        start = program.index('"expr_str": "') + len('"expr_str": "')
        end = program.index('"', start)
        replace_member(source, crafted, "models/model.json", (program[:start] + shell + program[end:]).encode())
    elif way == "operator":
        evil = program.replace("torch.ops.aten.relu.default", "torch.os.system")
        assert evil != program
        replace_member(source, crafted, "models/model.json", evil.encode())
    elif way == "pickled weight":
        evil = table.replace('"use_pickle": false', '"use_pickle": true', 1)
        assert evil != table
        replace_member(source, crafted, "weights/model_weights_config.json", evil.encode())
    elif way == "library":
        replace_member(source, crafted, "", b"\x7fELF", new_name=f"{prefix}/data/aotinductor/model/evil.so")
    else:
        evil = program.replace('"guards_code": []', f'"guards_code": ["{shell} or True"]')
        assert evil != program
        replace_member(source, crafted, "models/model.json", evil.encode())
    answer = type_command("inspect", crafted)
    assert not trophy.exists()
    if way in {"guard", "pickle"}:
        assert answer.status == 0, "guards are never built and sample inputs never read, so the file is as good as any"
    else:
        assert answer.status == 2
        assert "MODEL must be a .pt2 file that holds data only. Got a file whose member" in answer.err


def test_the_crafted_pickle_would_have_run(folder, tmp_path) -> None:
    """The check above can fail: torch itself opens the crafted file and runs what it brings."""
    crafted, trophy = tmp_path / "net.pt2", tmp_path / "i-was-here"
    replace_member(folder / "net.pt2", crafted, "sample_inputs/model.pt", pickle.dumps(Shell(trophy)))
    with contextlib.suppress(Exception):
        torch.export.load(crafted)
    assert trophy.exists()
