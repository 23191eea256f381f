"""Names that a graph can hold: torch writes parts of them into Python source."""

import keyword


def is_tensor_name(name: str) -> bool:
    r"""Whether a graph can hold a parameter or a buffer of that name: its parts stand in source, in double quotes.

    >>> is_tensor_name("conv-1.0.weight"), is_tensor_name('a"b.weight'), is_tensor_name("a\n.weight")
    (True, False, False)
    """
    return all(
        part.isprintable() and part != "" and not set(part) & set('"\\') and not keyword.iskeyword(part)
        for part in name.split(".")
    )


def owner_of(name: str) -> str:
    """Return the module that a parameter or buffer belongs to; what it is computed from is its own too.

    >>> owner_of("layer1.conv.weight"), owner_of("layer1.conv.parametrizations.weight.original0"), owner_of("weight")
    ('layer1.conv', 'layer1.conv', '')
    """
    path = f".{name}".partition(".parametrizations.")
    return (path[0] if path[1] else path[0].rpartition(".")[0]).removeprefix(".")
