"""The page as a person opens it: in a browser, without a network."""

import shutil

import pytest

import shrinknet as sn

FACTORY = ("nets_of_a_stranger:build", "--weights", "weights.safetensors", "--data", "data.npz")


@pytest.fixture
def page(type_command, tmp_path):
    out = tmp_path / "run"
    answer = type_command(
        "prune", *FACTORY, "--criterion", "taylor-1", "--flash", "6KiB", "--whole-curve", "--out", out
    )
    assert answer.status == 0
    return out / "report" / "index.html"


@pytest.fixture
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


def test_the_page_opens_without_a_network_and_draws_its_curves(page, browser) -> None:
    tab = browser.new_page()
    complaints, asked = [], []
    tab.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.on("request", lambda request: asked.append(request.url))
    tab.goto(page.as_uri())
    tab.wait_for_selector(".js-plotly-plot .scatterlayer .trace", state="attached")
    assert complaints == []
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []
    assert tab.locator(".js-plotly-plot").count() == 3
    text = tab.inner_text("body")
    for words in (
        "40 ->",
        "Proof. proven:",
        "What was removed from each group",
        "peak RAM (live activations)",
        "stopped: reached the goal",
    ):
        assert words in text
    tab.click("text=What is frozen, and why")
    assert "network output" in tab.inner_text("body")


def test_names_from_a_model_cannot_inject_script(tmp_path) -> None:
    """A parameter's name is text of a stranger's file; the page shows it as text."""
    import torch

    torch.manual_seed(0)
    model = torch.nn.Sequential()
    model.add_module("<script>alert(1)</script>", torch.nn.Linear(4, 6))
    model.add_module("two", torch.nn.Linear(6, 2))
    task = sn.Task(model, "cross-entropy", (torch.randn(20, 4), torch.arange(20) % 2))
    page = sn.prune(task, "magnitude", goals=[sn.RemovedNeurons(2)]).report(tmp_path / "run").read_text()
    assert "<script>alert(1)" not in page
