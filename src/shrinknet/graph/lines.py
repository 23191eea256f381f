"""Which line of the user's own code an error, or an operator of the graph, comes from."""

import re
import traceback
from pathlib import Path

import jaxtyping
import torch
from torch.fx import Node
from torch.nn.utils.rnn import PackedSequence

import shrinknet

NOT_THEIRS = tuple(str(Path(str(one.__file__)).parent) for one in (torch, shrinknet, jaxtyping))

PADDED = "Take padded rows as they are, and the state at each one's length: packing decides sizes by values."

REMEDIES = {
    "pack_padded_sequence": PADDED,
    "pack_sequence": PADDED,
    "nms": "Let the network return boxes and scores, and call nms on what it returns.",
}
"""What to write in place of calls that decide sizes by values."""

SAID = {
    "Constraints violated": "Write x.shape[0] in place of len(x) and int(...), and -1 where a view names the samples.",
    "cache_utils": "Say model.config.use_cache = False: keys and values that are kept are no outputs to compare.",
    "provide a tree_name": "Let forward name its arguments in place of **kwargs.",
}
"""What to do about what torch.export says: a size was asked for as a number, a language model keeps what it read ..."""


def line_of(error: BaseException) -> str:
    """Return the innermost line of the user's own code that an error went through; "" where it went through none."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not frame.filename.startswith((*NOT_THEIRS, "<"))]
    return _words(own[-1].filename, own[-1].lineno or 0, own[-1].name, own[-1].line or "") if own else ""


def line_of_node(node: Node) -> str:
    """Return the same of an operator, where the export has kept it."""
    found = re.findall(r'File "([^"]+)", line (\d+), in (\S+)\n\s+(.+)', str(node.meta.get("stack_trace") or ""))
    own = [one for one in found if not one[0].startswith(NOT_THEIRS)]
    return _words(own[-1][0], int(own[-1][1]), own[-1][2], own[-1][3]) if own else ""


def _words(file: str, line: int, function: str, text: str) -> str:
    return f"{file}, line {line}, in {function}: {text.strip()!r}"


def remedy_for(line: str, otherwise: str, error: BaseException | None = None) -> str:
    """Return what to write in place of the call that a line makes, or against what torch said, where that is known.

    Args:
        line: of the user's own code.
        otherwise: what to do where it is not known.
        error: what was raised there.

    >>> remedy_for("net.py, line 3, in forward: 'keep = nms(boxes, scores, 0.5)'", "Look.")
    'Let the network return boxes and scores, and call nms on what it returns.'
    """
    raised = None if error is None else error.__traceback__
    values = [one for frame, _ in traceback.walk_tb(raised) for one in frame.f_locals.values()]
    if any(isinstance(one, PackedSequence) for one in values):
        return PADDED
    said = (do for text, do in SAID.items() if text in str(error))
    return next(said, next((do for name, do in REMEDIES.items() if f"{name}(" in line), otherwise))
