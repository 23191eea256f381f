"""Things are found by their names: ours, those of installed packages, and the user's by an import path."""

import functools
import logging
import sys

import pytest
import torch
from own_code import OTHERS

import shrinknet as sn
from shrinknet.core.named import import_path
from shrinknet.criteria import criterion_names, find_criterion
from shrinknet.export.base import BY_NAME as EXPORTERS
from shrinknet.export.base import exporter_names, find_exporter
from shrinknet.recipes.catalogue import find_recipe
from shrinknet.sparsify import find_sparsifier
from shrinknet.task.accuracy import find_accuracy
from shrinknet.task.losses import find_loss
from shrinknet.task.measured import find_metric
from shrinknet.task.metrics import TopFive

STRANGERS = (
    OTHERS
    + """
from shrinknet import Metric
from shrinknet.recipes.isnn_mnist import RECIPES
from shrinknet.sparsify.methods.undecayed_pruning import OneShot


class Patient(OneShot):
    name = "patient"


def hinge(outputs, targets):
    return (1 - outputs.gather(1, targets[:, None])[:, 0]).clamp_min(0)


def never(outputs, targets):
    return outputs[:, 0] * 0


class Often(Metric):
    name = "often"

    def each(self, outputs, targets):
        return outputs[:, 0] * 0 + 1


recipe = RECIPES[0]
"""
)

ENTRY_POINTS = """
[shrinknet.criteria]
largest = strangers:Largest
ablation = strangers:Largest
[shrinknet.exporters]
shouting = strangers:Shouting
[shrinknet.sparsifiers]
patient = strangers:Patient
[shrinknet.losses]
hinge = strangers:hinge
[shrinknet.accuracies]
never = strangers:never
[shrinknet.metrics]
often = strangers:Often
[shrinknet.recipes]
another = strangers:recipe
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    (tmp_path / "strangers.py").write_text(STRANGERS)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    sys.modules.pop("strangers", None)


@pytest.fixture
def installed(module):
    about = module / "strangers-1.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: strangers\nVersion: 1\n")
    (about / "entry_points.txt").write_text(ENTRY_POINTS)
    return about


FINDERS = {
    "criterion": (find_criterion, "Largest", "largest"),
    "artefact": (find_exporter, "Shouting", "shouting"),
    "method": (find_sparsifier, "Patient", "patient"),
    "loss": (find_loss, "hinge", "hinge"),
    "accuracy": (find_accuracy, "never", "never"),
    "metrics": (find_metric, "Often", "often"),
    "name": (find_recipe, "recipe", "another"),
}


@pytest.mark.parametrize("argument", FINDERS)
def test_the_users_own_is_found_by_its_import_path(module, argument) -> None:
    find, own, _ = FINDERS[argument]
    found = find(f"strangers:{own}")
    assert found.name in (own, own.lower(), "isnn-mnist-1x100")
    with pytest.raises(sn.BadInputError, match=rf"^{argument} must be a name in strangers\. Got 'nothing'\."):
        find("strangers:nothing")
    with pytest.raises(sn.BadInputError, match=rf"^{argument} must be package.module:name that can be imported"):
        find("no_such_module_anywhere:thing")


@pytest.mark.parametrize("argument", ["criterion", "artefact", "method", "name"])
def test_what_is_named_must_be_of_the_kind(module, argument) -> None:
    with pytest.raises(
        sn.BadInputError, match=rf"^{argument} must be the name of an? \w+\. Got 'strangers:hinge', which"
    ):
        FINDERS[argument][0]("strangers:hinge")


@pytest.mark.parametrize("argument", FINDERS)
def test_an_installed_package_adds_one_by_its_entry_point(installed, argument) -> None:
    find, _, name = FINDERS[argument]
    assert find(name) is not None
    with pytest.raises(sn.BadInputError, match=rf"^{argument} must be the name of an? \w+\. Got 'nobody'\. .*"):
        find("nobody")


def test_an_installed_package_never_takes_the_place_of_ours(installed, caplog) -> None:
    with caplog.at_level(logging.WARNING, "shrinknet"):
        assert type(find_criterion("ablation")).__module__ == "shrinknet.criteria.ablation"
        assert "largest" in criterion_names()
    assert "'strangers:Largest' is left out: there is a criterion 'ablation' already." in caplog.text
    assert "shouting" in exporter_names()


def test_an_installed_package_that_does_not_import_is_one_sentence(installed) -> None:
    (installed / "entry_points.txt").write_text("[shrinknet.criteria]\nbroken = no_such_module_anywhere:Broken\n")
    with pytest.raises(
        sn.BadInputError, match=r"^criterion must be .* package can be imported\. Got 'broken' \(Module"
    ):
        find_criterion("broken")
    assert "broken" in criterion_names(), "names are known without importing anything"
    assert find_criterion("ablation").name == "ablation", "one broken package spoils nothing else"


class Plain(sn.Exporter):
    """What only says the two methods."""

    def build(self, network, inputs, calibration, quantize): ...
    def answer(self, content): ...


class Leveled(Plain):
    def __init__(self, level):
        self.level = level


class Half(sn.Exporter):
    def build(self, network, inputs, calibration, quantize): ...


class ScoreOnly(sn.Criterion):
    def conclude(self, network, sums): ...


def test_names_and_suffixes_fall_back_to_the_class() -> None:
    assert (Plain.name, Plain.suffix, Plain.packages) == ("Plain", ".plain", ())
    assert (ScoreOnly.name, ScoreOnly.unit) == ("ScoreOnly", "score"), "no loss unless it says so"
    assert find_metric(lambda outputs, targets: outputs).quality.higher_is_better is None


@pytest.mark.parametrize(("find", "one"), [
    (find_exporter, Plain), (find_criterion, ScoreOnly), (find_loss, torch.nn.HuberLoss), (find_metric, TopFive),
])  # fmt: skip
def test_a_class_does_as_well_as_an_object(find, one) -> None:
    assert find(one).name == find(one()).name


def test_what_is_found_again_is_found_by_its_name_or_import_path() -> None:
    assert EXPORTERS.text_of("any:thing") == "any:thing"
    assert EXPORTERS.text_of(find_exporter("onnx")) == EXPORTERS.text_of(type(find_exporter("onnx"))) == "onnx"
    assert EXPORTERS.text_of(Plain) == EXPORTERS.text_of(Plain()) == f"{__name__}:Plain"
    assert EXPORTERS.text_of(Leveled(3)) == "Leveled", "its class alone would be another one"
    assert import_path(functools.partial(print)) is None
    assert find_metric(TopFive()).spec == "top-5"


@pytest.mark.parametrize(("given", "sentence"), [
    (Leveled, r"^artefact must be a class that can be called without arguments\. Got 'Leveled', which said: TypeError: .*'level'\. Give an object of it\.$"),
    (Half, r"^artefact must be an exporter with all that it needs\. Got Half, which lacks answer\. CONTRIBUTING\.md says how"),
    (7, r"^artefact must be the name of an exporter\. Got 7\."),
])  # fmt: skip
def test_an_exporter_that_cannot_be_made_is_one_sentence(given, sentence) -> None:
    with pytest.raises(sn.BadInputError, match=sentence):
        find_exporter(given)


def test_a_sparsifier_is_named_by_its_class() -> None:
    kind = find_sparsifier("one-shot")
    assert find_sparsifier(kind) is kind
    with pytest.raises(
        sn.BadInputError,
        match=r"^method must be a class: its object is made with the network\. Got an object of OneShot",
    ):
        find_sparsifier(kind(torch.nn.Linear(3, 2), sparsity=0.5, at=1))
