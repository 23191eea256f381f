"""Pages made from templates."""

from typing import Any

from shrinknet.core.units import bytes_text


def rendered(package: str, template: str, **values: Any) -> str:
    """Return the page that a package's template makes of values."""
    import jinja2  # not above: many runs write no page

    loader = jinja2.PackageLoader(package)
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["bytes"] = bytes_text
    return environment.get_template(template).render(values)
