"""Files from strangers that want more than to be read: each is refused in one sentence, or loads without effect."""

import contextlib
import io
import json
import pickle
import re
import struct
import tracemalloc
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import shrinknet as sn
from shrinknet.loading import pt2_schema
from shrinknet.loading.data import load_data
from shrinknet.loading.models import fill, load_model
from shrinknet.loading.safe_pt2 import open_pt2

PROGRAM = "models/model.json"
WEIGHTS = "data/weights/model_weights_config.json"
CODE = "__import__('pathlib').Path({!r}).touch()"


class Shell:
    """What a hostile pickle does when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return eval, (CODE.format(str(self.path)),)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).eval()


@pytest.fixture(scope="module")
def honest() -> dict[str, bytes]:
    """The members of an honest .pt2 file by their place below its one folder."""
    buffer = io.BytesIO()
    shapes = ({0: torch.export.Dim("batch")},)
    torch.export.save(torch.export.export(network(), (torch.randn(2, 4),), dynamic_shapes=shapes), buffer)
    with zipfile.ZipFile(buffer) as archive:
        return {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}


def written(members: list[tuple[str, bytes]], path: Path) -> Path:
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w") as archive:
        warnings.simplefilter("ignore")  # two members of one name
        for name, content in members:
            archive.writestr(f"net/{name}", content)
    return path


def changed(honest: dict[str, bytes], place: str, change: Callable[[Any], None]) -> list[tuple[str, bytes]]:
    """The members of a file whose JSON at one place is another."""
    content = json.loads(honest[place])
    change(content)
    return list({**honest, place: json.dumps(content).encode()}.items())


def nodes(program: Any) -> list[Any]:
    return program["graph_module"]["graph"]["nodes"]


def with_renamed(old: str, new: str) -> Callable[[dict[str, bytes], Path], list[tuple[str, bytes]]]:
    def rename(honest: dict[str, bytes], trophy: Path) -> list[tuple[str, bytes]]:
        said = json.dumps(new.replace("CODE", CODE.format(str(trophy))))[1:-1]
        places = {place: content.decode() for place, content in honest.items() if place.endswith(".json")}
        assert any(old in text for text in places.values())
        return list({**honest, **{place: text.replace(old, said).encode() for place, text in places.items()}}.items())

    return rename


def with_target(target: str, **arguments: Any) -> Callable[[dict[str, bytes], Path], list[tuple[str, bytes]]]:
    def call(honest: dict[str, bytes], trophy: Path) -> list[tuple[str, bytes]]:
        def change(program: Any) -> None:
            node = next(one for one in nodes(program) if one["target"] == "torch.ops.aten.relu.default")
            node["target"] = target
            node["inputs"] = [
                {"name": name, "arg": {"as_string": str(trophy)} if value is Path else value, "kind": 1}
                for name, value in arguments.items()
            ] or node["inputs"]

        return changed(honest, PROGRAM, change)

    return call


def with_tree(kind: str, context: Any) -> Callable[[dict[str, bytes], Path], list[tuple[str, bytes]]]:
    def plant(honest: dict[str, bytes], trophy: Path) -> list[tuple[str, bytes]]:
        def change(program: Any) -> None:
            leaf = {"type": None, "context": None, "children_spec": []}
            said = json.dumps(context).replace("CODE", CODE.format(str(trophy)))
            tree = [1, {"type": kind, "context": said, "children_spec": [leaf]}]
            program["graph_module"]["module_call_graph"][0]["signature"]["out_spec"] = json.dumps(tree)

        return changed(honest, PROGRAM, change)

    return plant


def with_members(*extra: tuple[str, bytes]) -> Callable[[dict[str, bytes], Path], list[tuple[str, bytes]]]:
    return lambda honest, trophy: [*honest.items(), *extra]


def with_pickled(place: str) -> Callable[[dict[str, bytes], Path], list[tuple[str, bytes]]]:
    return lambda honest, trophy: list({**honest, place: pickle.dumps(Shell(trophy))}.items())


def _three_programs(honest: dict[str, bytes], trophy: Path) -> list[tuple[str, bytes]]:
    evil = dict(with_target("torch.os.system", command=Path)(honest, trophy))[PROGRAM]
    rest = [(name, content) for name, content in honest.items() if name != PROGRAM]
    return [*rest, (PROGRAM, evil), (PROGRAM, honest[PROGRAM]), (PROGRAM, evil)]


def _guard(honest: dict[str, bytes], trophy: Path) -> list[tuple[str, bytes]]:
    return changed(honest, PROGRAM, lambda program: program.update(guards_code=[CODE.format(str(trophy)) + " or True"]))


def _size(text: str) -> Callable[[dict[str, bytes], Path], list[tuple[str, bytes]]]:
    def resize(honest: dict[str, bytes], trophy: Path) -> list[tuple[str, bytes]]:
        size = re.search(r'"expr_str": "(.*?)"', honest[PROGRAM].decode())
        return with_renamed(size[1], text)(honest, trophy)

    return resize


def _weights(change: Callable[[Any], None]) -> Callable[[dict[str, bytes], Path], list[tuple[str, bytes]]]:
    return lambda honest, trophy: changed(honest, WEIGHTS, lambda table: change(next(iter(table["config"].values()))))


def _terabytes(entry: Any) -> None:
    entry["tensor_meta"]["sizes"] = [{"as_int": 10**6}, {"as_int": 10**6}]


def _deep(honest: dict[str, bytes], trophy: Path) -> list[tuple[str, bytes]]:
    return list({**honest, PROGRAM: b"[" * 200_000 + b"]" * 200_000}.items())


def _deep_region(honest: dict[str, bytes], trophy: Path) -> list[tuple[str, bytes]]:
    deep = {"as_int": 1}
    for _ in range(300):
        deep = {"as_string_to_argument": {"a": deep}}
    return changed(honest, PROGRAM, lambda program: nodes(program)[0]["inputs"][0].update(arg=deep))


REFUSED: dict[str, Callable[[dict[str, bytes], Path], list[tuple[str, bytes]]]] = {
    "three programs of one name": _three_programs,
    "a name with NUL": with_members(("models/model.json\0.txt", b"{}")),
    "a name that climbs": with_members(("../../evil", b"{}")),
    "a compiled library": with_members(("data/aotinductor/model/evil.so", b"\x7fELF")),
    "old weights in a pickle": with_pickled("data/weights/model.pt"),
    "a custom object": with_pickled("data/constants/custom_obj_0"),
    "a size that is code": _size("CODE"),
    "a size that is a method": _size("Symbol('s77').__class__"),
    "a size that never ends": _size("9**9**9"),
    "a size that never ends, in words": _size("Pow(Integer(9), Pow(Integer(9), Integer(9)))"),
    "a size that never ends, by a hat": _size("9^9^9"),
    "a size that never ends, step by step": _size("(" * 12 + "9" + "**8)" * 12),
    "a size that never ends, step by step in words": _size("Pow(" * 10 + "9" + ", 8)" * 10),
    "a symbol that is counted up to": lambda honest, trophy: changed(
        honest, PROGRAM, lambda program: program["range_constraints"].update(u99999999999={"min_val": 0, "max_val": None})),
    "a view over memory that is not there": with_target(
        "torch.ops.aten._reshape_alias.default", self={"as_tensor": {"name": "linear"}}, size={"as_ints": [10**9]},
        stride={"as_ints": [1]}),
    "an operator of TorchScript": with_target("torch.ops.aten.seed.default"),
    "a value that takes the graph's place": lambda honest, trophy: list(
        {**honest, PROGRAM: honest[PROGRAM].replace(b'"linear"', b'"self"')}.items()),
    "a weight in the place of a method": with_renamed("0.weight", "forward"),
    "a weight in the place of a class": with_renamed("0.weight", "x.__class__"),
    "a weight in the place of the code": with_renamed("0.weight", "code"),
    "a weight that Python reads as another": with_renamed("0.weight", "\ufb01"),
    "bytes that are repeated over terabytes": _weights(lambda entry: entry["tensor_meta"].update(
        sizes=[{"as_int": 10**6}] * 2, strides=[{"as_int": 0}] * 2)),
    "no network to call": lambda honest, trophy: changed(
        honest, PROGRAM, lambda program: program["graph_module"].update(module_call_graph=[])),
    "a function of os": with_target("torch.os.system", command=Path),
    "a function by a long way": with_target("torch.ops.aten.relu.__class__.__init__", command=Path),
    "a file that is read": with_target("torch.ops.aten.from_file.default", filename=Path),
    "a file that is written": with_target("torch.ops.aten.save.default", item={"as_int": 1}, filename=Path),
    "a line that is printed": with_target("torch.ops.aten._print.default", s=Path),
    "an operator of another library": with_target("torch.ops.quantized.linear.default"),
    "a container of another module": with_tree("ctypes.CDLL", "CODE"),
    "a container that is imported": with_tree("antigravity.Geohash", None),
    "a container of ours, keyed by code": with_tree("builtins.dict", ["x): CODE #"]),
    "a value named by code": with_renamed("relu", "relu = 1; CODE; x"),
    "an input named by code": with_renamed('"input"', "input, y=CODE"),
    "a weight named by code": with_renamed('0.weight', '0.we"), CODE, ("'),
    "a name with a line break": with_renamed("0.weight", "0.we\nCODE\n"),
    "a keyword's argument named by code": with_renamed('"self"', "self=CODE, y"),
    "a tensor of terabytes": _weights(_terabytes),
    "a tensor of negative size": _weights(lambda entry: entry["tensor_meta"].update(sizes=[{"as_int": -1}] * 2)),
    "a tensor in a pickle": _weights(lambda entry: entry.update(use_pickle=True)),
    "a tensor elsewhere": _weights(lambda entry: entry.update(path_name="../../weight_0")),
    "a tensor without bytes": lambda honest, trophy: list({**honest, "data/weights/weight_0": b""}.items()),
    "text for a number": _weights(lambda entry: entry["tensor_meta"].update(dtype="7")),
    "a list for a record": lambda honest, trophy: list({**honest, PROGRAM: b"[]"}.items()),
    "a number for a list": lambda honest, trophy: changed(
        honest, PROGRAM, lambda program: program["graph_module"]["graph"].update(nodes=7)),
    "two kinds at once": lambda honest, trophy: changed(
        honest, PROGRAM, lambda program: nodes(program)[0]["inputs"][0]["arg"].update(as_int=1)),
    "nested 200,000 deep": _deep,
    "nested 300 deep": _deep_region,
    "a number of 10,000 digits": lambda honest, trophy: list({**honest, PROGRAM: b"1" * 10_000}.items()),
    "no program": lambda honest, trophy: [one for one in honest.items() if one[0] != PROGRAM],
    "nothing": lambda honest, trophy: [],
}  # fmt: skip
"""Files that must be refused, by what they try."""

WITHOUT_EFFECT: dict[str, Callable[[dict[str, bytes], Path], list[tuple[str, bytes]]]] = {
    "sample inputs in a pickle": with_pickled("data/sample_inputs/model.pt"),
    "a guard that is code": _guard,
    "a size with a remark behind it": _size("Symbol('s77', positive=True, integer=True) # CODE"),
    "a note that is code": lambda honest, trophy: changed(
        honest,
        PROGRAM,
        lambda program: nodes(program)[0]["metadata"].update(source_fn_stack=f"a,torch.os.system({trophy})"),
    ),
}
"""Files whose trick lies in a part that is never read."""


def sentence_of(path: Path) -> str | None:
    """What loading a model says, None where it loads."""
    try:
        loaded = load_model(str(path))
        with torch.no_grad():
            loaded.model(torch.randn(3, 4))
    except sn.BadInputError as error:
        return str(error)
    return None


@pytest.mark.parametrize("trick", REFUSED)
def test_a_crafted_pt2_is_refused_in_a_sentence(trick: str, honest, tmp_path) -> None:
    trophy = tmp_path / "i-was-here"
    said = sentence_of(written(REFUSED[trick](honest, trophy), tmp_path / "net.pt2"))
    assert not trophy.exists()
    assert said is not None
    assert said.startswith("spec must be a .pt2 file ")
    assert "\n" not in said
    assert len(said) < 400


@pytest.mark.parametrize("trick", WITHOUT_EFFECT)
def test_what_is_never_read_has_no_effect(trick: str, honest, tmp_path) -> None:
    trophy = tmp_path / "i-was-here"
    assert sentence_of(written(WITHOUT_EFFECT[trick](honest, trophy), tmp_path / "net.pt2")) is None
    assert not trophy.exists()


def test_more_json_than_a_program_has_is_not_parsed(honest, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(pt2_schema, "LARGEST_PROGRAM", len(honest[PROGRAM]))
    path = tmp_path / "net.pt2"
    assert sentence_of(written(list(honest.items()), path)) is None
    said = sentence_of(written(list({**honest, PROGRAM: honest[PROGRAM] + b" "}.items()), path))
    assert said is not None
    assert "bytes of JSON, more than" in said


def test_a_note_never_reaches_a_terminal(honest, tmp_path) -> None:
    note = "a\x1b]0;owned\x07,a\x1b[2J,torch.nn.Linear"
    members = changed(honest, PROGRAM, lambda program: nodes(program)[0]["metadata"].update(nn_module_stack=note))
    model = load_model(str(written(members, tmp_path / "net.pt2"))).model
    assert "\x1b" not in str([node.meta.get("nn_module_stack") for node in model.graph.nodes])


def test_inputs_of_terabytes_are_not_made_up(honest, tmp_path) -> None:
    """Forty inputs of a quarter of a gibi elements each: every one alone would be small enough."""

    def enlarge(program: Any) -> None:
        graph, leaf = program["graph_module"]["graph"], {"type": None, "context": None, "children_spec": []}
        size = {**graph["tensor_values"]["linear"], "sizes": [{"as_int": 2**14}] * 2}
        for number in range(40):
            name = {"as_tensor": {"name": f"more_{number}"}}
            graph["inputs"].append(name)
            graph["tensor_values"][f"more_{number}"] = size
            program["graph_module"]["signature"]["input_specs"].append({"user_input": {"arg": name}})
        tree = [
            {"type": "builtins.tuple", "context": "null", "children_spec": [leaf] * 41},
            {"type": "builtins.dict", "context": "[]", "children_spec": []},
        ]
        whole = {"type": "builtins.tuple", "context": "null", "children_spec": tree}
        program["graph_module"]["module_call_graph"][0]["signature"]["in_spec"] = json.dumps([1, whole])

    assert load_model(str(written(changed(honest, PROGRAM, enlarge), tmp_path / "net.pt2"))).example_inputs is None


def test_a_member_that_unpacks_to_more_than_it_says_is_not_unpacked(honest, tmp_path) -> None:
    path, content = tmp_path / "net.pt2", bytes(2**24)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("net/models/model.json", content)
        archive.infolist()[0].file_size = 10
    tracemalloc.start()
    said = sentence_of(path)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert said is not None
    assert most < 2**23


@pytest.mark.parametrize("kind", ["encrypted", "compressed in an unknown way", "badly compressed", "truncated"])
def test_an_archive_that_cannot_be_read_is_one_sentence(kind: str, honest, tmp_path) -> None:
    path = tmp_path / "net.pt2"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in honest.items():
            archive.writestr(f"net/{name}", content)
    content = bytearray(path.read_bytes())
    central = content.index(b"PK\x01\x02")
    if kind == "encrypted":
        content[central + 8] |= 1
    elif kind == "compressed in an unknown way":
        content[central + 10] = 99
    elif kind == "badly compressed":
        content[60:90] = bytes(30)
    else:
        del content[len(content) // 2 :]
    path.write_bytes(bytes(content))
    said = sentence_of(path)
    assert said is not None
    assert said.startswith("spec must be a .pt2 file written by torch.export.save. Got ")


def test_hundreds_of_hostile_archives(honest, tmp_path) -> None:
    """Values of the JSON and bytes of the archive at random places, replaced by what tricks are made of."""
    draw = np.random.default_rng(0)
    trophy, path = tmp_path / "i-was-here", tmp_path / "net.pt2"
    code = CODE.format(str(trophy))
    planted: list[Any] = [
        code, f"x): {code} #", f'a"), {code}, ("', "torch.os.system", "ctypes.CDLL", "class", "a\nb", "", 10**30, -1, True,
        None, [], {}, [[]], {"as_int": 7}, {"as_string": code}, {"as_operator": "torch.os.system"},
        {"as_custom_obj": {"name": "a", "class_fqn": "os.system"}}, 0.5, "Infinity",
    ]  # fmt: skip
    refused = 0
    for number in range(600):
        members = dict(honest)
        if number % 4 < 3:
            place = (PROGRAM, PROGRAM, WEIGHTS)[number % 4]
            content = json.loads(members[place])
            for _ in range(int(draw.integers(1, 3))):
                plant(content, planted, draw)
            members[place] = json.dumps(content).encode()
            written(list(members.items()), path)
        else:
            content = bytearray(written(list(members.items()), path).read_bytes())
            for at in draw.integers(0, len(content), int(draw.integers(1, 5))):
                content[at] = int(draw.integers(0, 256))
            path.write_bytes(bytes(content))
        said = sentence_of_opening(path)
        assert said is None or "\n" not in said
        refused += said is not None
    assert not trophy.exists()
    assert 300 < refused < 600


def sentence_of_opening(path: Path) -> str | None:
    try:
        open_pt2(path)
    except sn.BadInputError as error:
        return str(error)
    return None


def plant(content: Any, planted: list[Any], draw: np.random.Generator) -> None:
    """Replace one value, or one key, somewhere in a tree."""
    while True:
        keys = list(content) if isinstance(content, dict) else list(range(len(content)))
        if not keys:
            return
        key = keys[int(draw.integers(len(keys)))]
        is_tree = isinstance(content[key], dict | list) and len(content[key]) > 0
        if not is_tree or draw.random() < 0.05:
            break
        content = content[key]
    value = planted[int(draw.integers(len(planted)))]
    if isinstance(content, dict) and draw.random() < 0.2:
        content[str(value)] = content.pop(key)
    else:
        content[key] = value


def test_hundreds_of_hostile_arrays_and_weights(tmp_path) -> None:
    """Bytes at random places, ends cut off, headers that claim other things: a sentence, or the file is read."""
    draw = np.random.default_rng(0)
    np.savez_compressed(
        tmp_path / "data.npz", inputs=np.ones((9, 4), "f4"), targets=np.arange(9) % 3, split=np.arange(9) % 3
    )
    save_file(network().state_dict(), tmp_path / "weights.safetensors")
    refused, words = (
        0,
        [b"|O", b"<M8", b"<f16", b"(9e9,)", b"data.pkl", b"PK\x05\x06", b"\x80", b"F4", b"[-1]", b"9" * 30],
    )
    for number in range(500):
        name = ("data.npz", "weights.safetensors")[number % 2]
        content = bytearray((tmp_path / name).read_bytes())
        for at in draw.integers(0, len(content), int(draw.integers(1, 6))):
            word = words[int(draw.integers(len(words)))] if draw.random() < 0.3 else bytes([int(draw.integers(256))])
            content[at : at + len(word)] = word
        if draw.random() < 0.1:
            del content[int(draw.integers(len(content))) :]
        path = tmp_path / f"hostile-{name}"
        path.write_bytes(content)
        said = sentence_of_reading(path)
        assert said is None or "\n" not in said
        refused += said is not None
    assert 200 < refused < 500


def sentence_of_reading(path: Path) -> str | None:
    try:
        load_data(str(path)) if path.suffix == ".npz" else fill(network(), path)
    except sn.BadInputError as error:
        return str(error)
    return None


def test_weights_that_end_like_an_archive_are_one_sentence(tmp_path) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(bytes(8) + b"PK\x05\x06" + b"\xff" * 18)
    with pytest.raises(sn.BadInputError, match=r"^weights must be a \.safetensors file\. Got "):
        fill(network(), path)


HONEST_NAMES = ["a;b", "a,b", "a(b", "a-b", "a b", "a'b", "é", "a[b", "0"]


@pytest.mark.parametrize("name", HONEST_NAMES)
def test_a_run_of_a_network_with_an_odd_name_opens_again(name: str, tmp_path) -> None:
    run = sn.prune(odd_task(name), "magnitude", "single-ranking", goals=[sn.RemovedNeurons(2)])
    run.save(tmp_path / "run")
    for file in ("original.pt2", "model.pt2"):
        loaded = load_model(str(tmp_path / "run" / file))
        assert [group.name for group in sn.trace(loaded.model, loaded.example_inputs).groups] == [name]
        torch.export.load(tmp_path / "run" / file)  # and without shrinknet


@pytest.mark.parametrize("name", ['a"b', "a\\b", "a\nb", "class", "lambda", "code", "\ufb01"])
def test_a_name_that_no_graph_can_hold_is_one_sentence(name: str) -> None:
    with pytest.raises(sn.BadInputError, match="names without quotes, backslashes, line breaks and Python keywords"):
        sn.rank(odd_task(name), "magnitude")


def odd_task(name: str) -> sn.Task:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.add_module(name, nn.Linear(4, 6))
            self.last = nn.Linear(6, 3)

        def forward(self, x):
            return self.last(getattr(self, name)(x).relu())

    return sn.Task(Odd(), "cross-entropy", (torch.randn(20, 4), torch.arange(20) % 3))


def array_member(header: str, held: bytes = b"") -> bytes:
    padded = header.encode("latin1").ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(padded)) + padded + held


def header(shape: str = "(4,)", descr: str = "<f4") -> str:
    return f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}"


ARRAYS = {
    "a shape of terabytes": (array_member(header("(1000000000000,)"), bytes(16)), "claims 4,000,000,000,000 bytes and holds 16"),
    "a negative shape": (array_member(header("(-4,)"), bytes(16)), "claims -16 bytes and holds 16"),
    "a shape times a shape": (array_member(header("(-2, -2)"), bytes(16)), "claims 16 bytes"),
    "a header that does not parse": (array_member("{'descr'"), "cannot be read"),
    "a header that is code": (array_member("{'descr': __import__('os').system('true')}"), "cannot be read"),
    "a header nested deeply": (array_member("(" * 100), "cannot be read"),
    "a header that lacks its end": (b"\x93NUMPY\x01\x00\xff\xff{", "cannot be read"),
    "no header": (b"hello", "cannot be read"),
    "a header of version 9": (b"\x93NUMPY\x09\x00" + bytes(90), "has a header of version (9, 0)"),
    "extended floats": (array_member(header(descr="<f16"), bytes(64)), "is float128 of shape [4]"),
    "complex numbers": (array_member(header(descr="<c8"), bytes(32)), "is complex64 of shape [4]"),
    "dates": (array_member(header(descr="<M8[s]"), bytes(32)), "is datetime64[s] of shape [4]"),
    "text": (array_member(header(descr="<U2"), bytes(32)), "is <U2 of shape [4]"),
    "records": (array_member("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (4,), }", bytes(16)), "of shape [4]"),
    "objects": (array_member(header(descr="|O"), pickle.dumps([1])), "holds a pickle"),
    "a number": (array_member(header("()"), bytes(4)), "is float32 of shape []"),
    "sizes that are no numbers": (array_member(header("('a',)"), bytes(16)), "cannot be read"),
}  # fmt: skip


@pytest.mark.parametrize("trick", ARRAYS)
def test_a_crafted_npz_is_refused_in_a_sentence(trick: str, tmp_path) -> None:
    content, why = ARRAYS[trick]
    with zipfile.ZipFile(tmp_path / "data.npz", "w") as archive:
        archive.writestr("inputs.npy", content)
    assert why in said_of_data(tmp_path / "data.npz")


def said_of_data(path: Path) -> str:
    with pytest.raises(sn.BadInputError) as caught:
        load_data(str(path))
    said = str(caught.value)
    assert said.startswith("data must be an .npz file of plain arrays. Got ")
    assert "\n" not in said
    return said


@pytest.mark.parametrize(
    "names", [("inputs.npy", "inputs.npy"), ("inputs.npy", "inputs"), ("inputs.npy", "/inputs.npy")]
)
def test_an_npz_with_two_arrays_of_one_name_is_refused(names: tuple[str, str], tmp_path) -> None:
    with warnings.catch_warnings(), zipfile.ZipFile(tmp_path / "data.npz", "w") as archive:
        warnings.simplefilter("ignore")
        for name in names:
            archive.writestr(name, array_member(header(), bytes(16)))
    said_of_data(tmp_path / "data.npz")


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path) -> None:
    """12 GB of zeros in 12 MB, made of one compressed block that is written again and again."""
    size, path = 12 * 2**30, tmp_path / "data.npz"
    engine = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = bytes(2**24)
    content = engine.compress(block) + engine.flush(zlib.Z_FULL_FLUSH)
    head = array_member(header(f"({size},)", "|u1"))
    first = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = first.compress(head) + first.flush(zlib.Z_FULL_FLUSH) + content * (size // 2**24) + b"\x03\x00"
    info = zipfile.ZipInfo("inputs.npy")
    with zipfile.ZipFile(path, "w") as archive:
        info.compress_type = zipfile.ZIP_STORED
        archive.writestr(info, packed)
        info.compress_type, info.file_size, info.compress_size = zipfile.ZIP_DEFLATED, len(head) + size, len(packed)
    assert path.stat().st_size < 2**24
    assert "which would unpack to 12,884,902,016 bytes, more than the" in said_of_data(path)


@pytest.mark.parametrize("savez", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("kind", ["<f4", ">f8", "<f2", "<i4", "|u1", "|b1"])
def test_honest_arrays_load_as_they_are(savez: Any, kind: str, tmp_path) -> None:
    inputs = np.asfortranarray(np.arange(60).reshape(20, 3) % 7).astype(kind)
    savez(tmp_path / "data.npz", inputs=inputs, targets=np.arange(20) % 3, split=np.arange(20) % 3)
    rows, targets = load_data(str(tmp_path / "data.npz"))["validation"]
    assert np.array_equal(rows.numpy(), inputs[1::3])
    assert targets.tolist() == [int(k % 3) for k in range(1, 20, 3)]


def test_weights_whose_table_has_the_length_of_a_pickle_s_first_byte(tmp_path) -> None:
    """A .safetensors file begins with the length of its table: 128, 384, 640 ... begin with the byte of a pickle."""
    model, found = network(), set()
    for padding in range(256):
        note = {"note": "x" * padding}
        save_file(model.state_dict(), tmp_path / "weights.safetensors", note)
        found.add((tmp_path / "weights.safetensors").read_bytes()[0])
        if 0x80 in found:
            break
    assert 0x80 in found
    other = network()
    nn.init.zeros_(other[0].weight)
    fill(other, tmp_path / "weights.safetensors")
    assert torch.equal(other[0].weight, model[0].weight)


def test_buffers_that_a_class_does_not_save_are_filled_too(tmp_path) -> None:
    class Offset(nn.Module):
        def __init__(self, value: float) -> None:
            super().__init__()
            self.one = nn.Linear(4, 3)
            self.register_buffer("offset", torch.full((3,), value), persistent=False)

        def forward(self, x):
            return self.one(x) + self.offset

    saved, filled = Offset(2.0), Offset(0.0)
    tensors = {**saved.state_dict(), "offset": saved.offset}
    save_file(tensors, tmp_path / "weights.safetensors")
    fill(filled, tmp_path / "weights.safetensors")
    assert torch.equal(filled.offset, saved.offset)
    save_file({**tensors, "offset": torch.zeros(4)}, tmp_path / "weights.safetensors")
    with pytest.raises(sn.BadInputError, match=r"'offset' of shape \[4\] in place of \[3\]"):
        fill(filled, tmp_path / "weights.safetensors")


def test_the_tricks_work_where_torch_opens_the_file(honest, tmp_path) -> None:
    """The tests above can fail: torch itself runs what a guard and a pickle say."""
    for trick in ("sample inputs in a pickle", "a guard that is code"):
        trophy = tmp_path / trick.replace(" ", "-")
        path = written(WITHOUT_EFFECT[trick](honest, trophy), tmp_path / "net.pt2")
        with contextlib.suppress(Exception):
            torch.export.load(path).module()(torch.randn(2, 4))
        assert trophy.exists()
