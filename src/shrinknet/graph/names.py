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
