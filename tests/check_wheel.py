"""Install the built wheel elsewhere and use it there: what is packed must be enough.

python tests/check_wheel.py dist/shrinknet-0.1.0-py3-none-any.whl
"""

import subprocess
import sys
import tempfile
from pathlib import Path

SCRIPT = """
import shrinknet as sn, torch
assert "site-packages/wheel-check" in sn.__file__, sn.__file__
model = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.ReLU(), torch.nn.Linear(6, 2))
task = sn.Task(model, "cross-entropy", (torch.randn(20, 4), torch.arange(20) % 2))
run = sn.prune(task, goals=[sn.RemovedNeurons(2)])
assert run.model[0].out_features == 4
assert run.report("run").stat().st_size > 10**6
from shrinknet.recipes.digits import load_digits
from shrinknet.recipes.isnn_figures import published
assert load_digits()[0].shape == (1797, 8, 8)
assert "sklearn" not in __import__("sys").modules
assert published()["isnn-mnist-1x100"]["start"]["error"] == 38.0
print("the wheel works")
"""


def main() -> None:
    """Install the wheel alone into a folder and run it from another one; dependencies are this environment's."""
    wheel = Path(sys.argv[1]).resolve()
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "site-packages" / "wheel-check"
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(target)]
        subprocess.run([*pip, str(wheel)], check=True)
        script = f"import sys; sys.path.insert(0, {str(target)!r})\n{SCRIPT}"
        subprocess.run([sys.executable, "-I", "-c", script], check=True, cwd=folder)


if __name__ == "__main__":
    main()
