"""Sparsifiers in other people's loops: callbacks for Lightning and Hugging Face's Trainer."""

from typing import Any

from shrinknet.core.errors import ShrinknetError
from shrinknet.sparsify.base import Sparsifier


def lightning_callback(sparsifier: Sparsifier) -> Any:
    """Return a `lightning.Callback` that attaches a sparsifier to the first optimizer while training lasts.

    When training ends the sparsifier is finished: the model's own weights are then the sparse ones, for evaluation and
    export. The method's state goes into Lightning's checkpoints, and comes back from them.

    The sparsifier's model must be the module that `training_step` calls: the LightningModule itself where it calls
    `self(x)`, or the network in it.

    Raises:
        ShrinknetError: lightning is not installed.
    """
    try:
        from lightning import Callback
    except ImportError as error:
        raise _missing("lightning") from error

    class SparsifierCallback(Callback):
        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            sparsifier.attach(trainer.optimizers[0])

        def on_train_end(self, trainer: Any, pl_module: Any) -> None:
            sparsifier.detach()
            sparsifier.finish()

        def state_dict(self) -> dict[str, Any]:
            tensors, numbers = sparsifier.state()
            return {"tensors": tensors, "numbers": numbers}

        def load_state_dict(self, state_dict: dict[str, Any]) -> None:
            sparsifier.load_state(state_dict["tensors"], state_dict["numbers"])

        def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
            sparsifier.detach()

    return SparsifierCallback()


def transformers_callback(sparsifier: Sparsifier) -> Any:
    """Return a `transformers.TrainerCallback` that attaches a sparsifier to the Trainer's optimizer.

    When training ends the sparsifier is finished: the model's own weights are then the sparse ones. The Trainer tells
    its callbacks of no exception: after one call `sparsifier.detach()`, which takes the hooks off. The method's state
    does not go into the Trainer's checkpoints: keep `sparsifier.state()` beside them.

    Raises:
        ShrinknetError: transformers is not installed.
    """
    try:
        from transformers import TrainerCallback
    except ImportError as error:
        raise _missing("transformers") from error

    class SparsifierCallback(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            sparsifier.attach(getattr(given["optimizer"], "optimizer", given["optimizer"]))

        def on_train_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            sparsifier.detach()
            sparsifier.finish()

    return SparsifierCallback()


def _missing(package: str) -> ShrinknetError:
    return ShrinknetError(f"{package} must be installed for its callback. It is not. Run: pip install {package}")
