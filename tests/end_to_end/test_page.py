"""The page as a person opens it: in a browser, without a network; its numbers are those of the run folder."""

import csv
import json
import shutil
from pathlib import Path

import pytest

import shrinknet as sn

FACTORY = ("nets_of_a_stranger:build", "--weights", "weights.safetensors", "--data", "data.npz")


@pytest.fixture(scope="module")
def runs(tmp_path_factory, type_once) -> dict[str, Path]:
    """Two runs of one network, made by typed commands, with surfaces."""
    made = {}
    for criterion, compensate in (("taylor-1", "none"), ("ablation", "least-squares")):
        out = tmp_path_factory.mktemp("page") / criterion
        made[criterion] = out
        words = ("--criterion", criterion, "--flash", "6KiB", "--whole-curve", "--compensate", compensate)
        type_once("prune", *FACTORY, *words, "--out", out)
        type_once("analyse", "surface", out, "--every", "9", "--alphas", "0:2:0.1")
    return made


@pytest.fixture(scope="module")
def browser():
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("no Chromium here")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        chromium = playwright.chromium.launch(executable_path=path, args=flags)
        yield chromium
        chromium.close()


@pytest.fixture
def open_page(browser):
    """Open a page; in the end it must not have complained, nor asked for anything."""
    complaints, asked, tabs = [], [], []

    def opened(path: Path):
        tab = browser.new_page(viewport={"width": 1200, "height": 900})
        tabs.append(tab)
        tab.on(
            "console", lambda message: complaints.append(message.text) if message.type in {"error", "warning"} else None
        )
        tab.on("pageerror", lambda error: complaints.append(str(error)))
        tab.on("request", lambda request: asked.append(request.url))
        tab.goto(path.as_uri())
        tab.wait_for_selector("html[data-ready=yes]", timeout=20_000)
        return tab

    yield opened
    for tab in tabs:
        tab.close()
    assert complaints == []
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []


def page_of(run: Path) -> Path:
    return run / "report" / "index.html"


def history_of(run: Path) -> list[dict[str, str]]:
    with open(run / "history.csv", newline="") as file:
        return list(csv.DictReader(file))


def now(tab, what: str) -> str:
    return tab.locator(f"#now-{what}").evaluate("element => element.firstChild.textContent")


def test_the_page_opens_without_a_network_and_draws_its_charts(runs, open_page) -> None:
    tab = open_page(page_of(runs["taylor-1"]))
    assert tab.locator(".js-plotly-plot").count() == 5  # and the surface, where a step has one
    text = tab.inner_text("body")
    for words in ("40 ->", "Proof. proven:", "What is left of each group", "peak RAM", "stopped: reached the goal"):
        assert words in text
    tab.click("text=What is frozen, and why")
    assert "network output" in tab.inner_text("body")
    assert page_of(runs["taylor-1"]).stat().st_size < 6_000_000


def test_the_slider_walks_through_the_history(runs, open_page) -> None:
    """At each place the cards say what history.csv says of that step."""
    tab, rows = open_page(page_of(runs["taylor-1"])), history_of(runs["taylor-1"])
    slider = tab.get_by_role("slider")
    for place in (0, 1, len(rows) // 2, len(rows) - 1):
        slider.fill(str(place))
        row = rows[place]
        assert now(tab, "num_neurons") == row["num_neurons"]
        assert now(tab, "num_parameters") == f"{int(row['num_parameters']):,}"
        assert now(tab, "macs") == f"{int(row['macs']):,}"
        assert now(tab, "accuracy") == f"{100 * float(row['validation_accuracy']):.2f} %"
        assert float(now(tab, "loss")) == pytest.approx(float(row["validation_loss"]), rel=1e-3)
        flash = int(row["flash_bytes"])
        assert now(tab, "flash_bytes") == (f"{flash} B" if flash < 1024 else f"{flash / 1024:.1f} KiB")
        if place:
            rise = float(row["calibration_loss"]) - float(rows[place - 1]["calibration_loss"])
            said = tab.inner_text("#went")
            assert f"{row['group']}[{row['neuron']}]" in said
            assert float(said.split("calibration loss ")[1].rstrip(".")) == pytest.approx(rise, rel=2e-3, abs=1e-9)
        bars = tab.evaluate("document.getElementById('groups').data[0].x")
        assert sum(bars) == int(row["num_neurons"])


def test_the_recall_bars_are_those_of_the_answers(runs, open_page) -> None:
    run = runs["taylor-1"]
    tab, rows = open_page(page_of(run)), history_of(run)
    with open(run / "answers.csv", newline="") as file:
        answers = list(csv.DictReader(file))
    place = len(rows) * 3 // 4
    tab.get_by_role("slider").fill(str(place))
    tab.wait_for_timeout(200)
    latest: dict = {}
    for one in answers:
        if int(one["step"]) <= place:
            latest[one["row"]] = (one["target"], one["answer"])
    for number in range(10):
        mine = [answer == target for target, answer in latest.values() if target == str(number)]
        drawn = tab.evaluate("document.getElementById('recalls').data[0].y")[number]
        assert drawn == pytest.approx(100 * sum(mine) / len(mine), abs=0.006)


def test_a_typed_budget_finds_the_first_network_that_fits(runs, open_page) -> None:
    run = runs["taylor-1"]
    tab, rows = open_page(page_of(run)), history_of(run)
    budget = tab.get_by_label("At most")
    budget.fill("4 KiB")
    budget.press("Enter")
    first = next(place for place, row in enumerate(rows) if int(row["flash_bytes"]) <= 4096)
    assert tab.get_by_role("slider").input_value() == str(first)
    assert tab.inner_text("#fits") == f"Step {first} is the first that fits."
    tab.get_by_label("Budget of").select_option("macs")
    budget.fill("1.2k")
    budget.press("Enter")
    first = next(place for place, row in enumerate(rows) if int(row["macs"]) <= 1200)
    assert tab.get_by_role("slider").input_value() == str(first)
    assert "multiplications a sample" in tab.inner_text("#loss")
    budget.fill("10")
    budget.press("Enter")
    assert tab.inner_text("#fits").startswith("None fits; the smallest has")
    budget.fill("plenty")
    budget.press("Enter")
    assert tab.inner_text("#fits") == "Write a number, such as 12 KiB or 20k."
    tab.get_by_role("button", name="The network handed back").click()
    assert "proven" in tab.inner_text("#what")


def test_the_surface_of_an_analysed_step_is_drawn_and_others_say_how(runs, open_page) -> None:
    run = runs["taylor-1"]
    tab = open_page(page_of(run))
    found = json.loads((run / "analysis" / "surfaces.json").read_text())["surfaces"]
    tab.get_by_role("slider").fill(str(found[1]["step"]))
    tab.wait_for_timeout(200)
    assert found[1]["ground"] in tab.inner_text("#surface-words")
    drawn = tab.evaluate("document.getElementById('surface').data[0].y")
    assert drawn == pytest.approx(found[1]["losses"])
    tab.get_by_role("slider").fill(str(found[1]["step"] + 3))
    tab.wait_for_timeout(200)
    assert not tab.locator("#surface").is_visible()
    assert f"nearest step whose error surface was computed is {found[1]['step']}" in tab.inner_text("#surface-words")


def test_several_runs_share_the_curves_and_can_be_chosen(runs, open_page, type_command, tmp_path) -> None:
    answer = type_command("report", *runs.values(), "--out", tmp_path / "both.html")
    assert answer.status == 0
    tab = open_page(tmp_path / "both.html")
    names = tab.evaluate("document.getElementById('loss').data.map(one => one.name).filter(Boolean)")
    assert names == ["taylor-1", "ablation, nothing made up for", "ablation"]
    tab.locator("#run").select_option(label="ablation")
    handed = json.loads((runs["ablation"] / "summary.json").read_text())
    assert now(tab, "num_neurons") == str(handed["after"]["costs"]["num_neurons"])
    tab.get_by_role("slider").fill("5")
    assert now(tab, "num_parameters") == f"{int(history_of(runs['ablation'])[5]['num_parameters']):,}"


def test_keyboard_names_and_themes(runs, open_page) -> None:
    tab = open_page(page_of(runs["taylor-1"]))
    slider = tab.get_by_role("slider", name="Size of the network")
    slider.focus()
    before = int(slider.input_value())
    tab.keyboard.press("ArrowRight")
    assert int(slider.input_value()) == before + 1
    assert slider.get_attribute("aria-valuetext").startswith("flash ")
    assert f"step {before + 1} of" in slider.get_attribute("aria-valuetext")
    unnamed = tab.evaluate(
        "[...document.querySelectorAll('[role=img]')].filter(e => !e.getAttribute('aria-label')).length"
    )
    assert unnamed == 0
    colours = {}
    for name in ("dark", "light"):
        tab.get_by_role("button", name="Theme").click()
        assert tab.get_by_role("button", name="Theme").inner_text() == f"Theme: {name}"
        colours[name] = tab.evaluate("getComputedStyle(document.body).backgroundColor")
        ink = tab.evaluate("document.getElementById('loss').layout.font.color")
        assert ink == {"dark": "#e4eaf0", "light": "#1b2733"}[name]
    assert colours == {"dark": "rgb(18, 24, 30)", "light": "rgb(255, 255, 255)"}


def test_a_narrow_screen_does_not_scroll_sideways_and_paper_has_no_controls(runs, open_page) -> None:
    tab = open_page(page_of(runs["taylor-1"]))
    tab.set_viewport_size({"width": 380, "height": 800})
    tab.wait_for_timeout(300)
    assert tab.evaluate("document.documentElement.scrollWidth") <= 380
    tab.emulate_media(media="print")
    assert not tab.get_by_role("slider").is_visible()
    assert tab.locator("#cards").is_visible()
    assert tab.pdf()[:4] == b"%PDF"


def test_names_from_a_model_cannot_inject_script(open_page, tmp_path) -> None:
    """A parameter's name is text of a stranger's file; the page shows it as text."""
    import torch

    torch.manual_seed(0)
    model = torch.nn.Sequential()
    name = "</script><img src=x onerror='alert(1)'><b>"
    model.add_module(name, torch.nn.Linear(4, 6))
    model.add_module("two", torch.nn.Linear(6, 2))
    task = sn.Task(model, "cross-entropy", (torch.randn(20, 4), torch.arange(20) % 2))
    page = sn.prune(task, "magnitude", goals=[sn.RemovedNeurons(2)]).report(tmp_path / "run")
    assert "</script><img" not in page.read_text()
    tab = open_page(page)
    assert tab.title().startswith("shrinknet")
    assert name in tab.inner_text("#went")


def test_a_long_history_is_thinned_and_says_so(tmp_path) -> None:
    import torch

    from shrinknet.report.page_data import page_data

    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 40), torch.nn.ReLU(), torch.nn.Linear(40, 2))
    task = sn.Task(model, "cross-entropy", (torch.randn(20, 4), torch.arange(20) % 2))
    run = sn.prune(task, "magnitude", goals=[sn.RemovedNeurons(17)], whole_curve=True)
    folder = run.save(tmp_path / "run")
    data = page_data(folder, "one", folder.groups(), folder.history(), 10)
    assert len(data["steps"]) <= 11
    assert (data["steps"][0], data["steps"][-1], data["all_steps"]) == (0, 39, 40)
    assert data["steps"][data["handed"]] == 17


def test_a_notebook_shows_the_same_page(open_page, tmp_path) -> None:
    import torch

    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 9), torch.nn.ReLU(), torch.nn.Linear(9, 2))
    task = sn.Task(model, "cross-entropy", (torch.randn(20, 4), torch.arange(20) % 2))
    run = sn.prune(task, "magnitude", goals=[sn.RemovedNeurons(3)])
    (tmp_path / "notebook.html").write_text(
        f"<html data-ready=yes><link rel=icon href='data:,'><body>{run._repr_html_()}</body></html>"
    )
    frame = open_page(tmp_path / "notebook.html").frame_locator("iframe")
    assert frame.locator("#now-num_neurons").inner_text().startswith("6")
    assert frame.locator(".js-plotly-plot").count() >= 3


def small_task() -> sn.Task:
    import torch

    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 12), torch.nn.ReLU(), torch.nn.Linear(12, 2))
    rows = torch.randn(40, 4), torch.arange(40) % 2
    return sn.Task(model, "cross-entropy", rows, rows)


def test_scores_beyond_all_bounds_do_not_lose_the_page(open_page, tmp_path) -> None:
    """A criterion may say that a neuron must stay; with the whole curve it goes in the end."""
    import torch

    class Protecting(sn.Criterion):
        name, unit = "protecting", "loss"

        def observe(self, network, batch):
            return {group.name: torch.full((group.width,), torch.inf).double() for group in network.groups}

        def conclude(self, network, sums):
            return sums

    run = sn.prune(small_task(), Protecting(), goals=[sn.RemovedNeurons(3)], whole_curve=True)
    tab = open_page(run.report(tmp_path / "run"))
    assert "Step 3 removed 0[2]; true rise" in tab.inner_text("#went")


def test_a_step_of_several_neurons_says_all_its_scores(open_page, tmp_path) -> None:
    run = sn.prune(small_task(), "ablation", goals=[sn.RemovedNeurons(6)], step=3)
    lowest, highest = min(run.history[2].scores), max(run.history[2].scores)
    said = open_page(run.report(tmp_path / "run")).inner_text("#went")
    numbers = [float(part) for part in said.split("scores ")[1].split(", true")[0].split(" to ")]
    assert numbers == [float(f"{score:.3g}") for score in (lowest, highest)], "three digits"


def test_a_loss_below_zero_is_drawn_on_a_straight_axis(open_page, tmp_path) -> None:
    task = small_task()
    rows = next(task.calibration.batches())
    below = sn.Task(task.model, lambda outputs, targets: -outputs.square().mean(1), (rows.inputs, rows.targets))
    page = sn.prune(below, goals=[sn.RemovedNeurons(3)]).report(tmp_path / "run")
    assert open_page(page).evaluate("document.getElementById('loss').layout.yaxis.type") == "linear"
