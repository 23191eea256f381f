"""Names that a graph can hold: torch writes parts of them into Python source."""

import keyword
import unicodedata
from functools import cache

from torch import fx, nn


def is_tensor_name(name: str) -> bool:
    r"""Whether a graph can hold a parameter or a buffer of that name: its parts stand in source, in double quotes.

    Python takes some letters for others (NFKC), and a graph has attributes of its own, such as `code`.

    >>> is_tensor_name("conv-1.0.weight"), is_tensor_name('a"b.weight'), is_tensor_name("a\n.weight")
    (True, False, False)
    """
    first, *rest = name.split(".")
    return _is_part(first, _attributes_of_graphs()) and all(_is_part(part, _attributes_of_modules()) for part in rest)


def _is_part(part: str, taken: frozenset[str]) -> bool:
    is_word = part.isprintable() and part != "" and not set(part) & set('"\\')
    return is_word and not keyword.iskeyword(part) and part not in taken and unicodedata.normalize("NFKC", part) == part


@cache
def _attributes_of_modules() -> frozenset[str]:
    return frozenset(dir(nn.Module()))


@cache
def _attributes_of_graphs() -> frozenset[str]:
    return frozenset(dir(fx.GraphModule({}, fx.Graph()))) | {"_in_spec", "_out_spec"}


def owner_of(name: str) -> str:
    """Return the module that a parameter or buffer belongs to; what it is computed from is its own too.

    >>> owner_of("layer1.conv.weight"), owner_of("layer1.conv.parametrizations.weight.original0"), owner_of("weight")
    ('layer1.conv', 'layer1.conv', '')
    """
    path = f".{name}".partition(".parametrizations.")
    return (path[0] if path[1] else path[0].rpartition(".")[0]).removeprefix(".")
