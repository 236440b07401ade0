"""Load the templates of pages and drawings."""

from __future__ import annotations

from typing import Any

EXTRA = 'pip install "kprune[report]"'


def require_jinja2(what: str) -> Any:
    """Return the module jinja2.

    Args:
        what: What needs it, for the message, such as `"A report"`.

    Raises:
        ImportError: jinja2 is not installed.
    """
    try:
        import jinja2
    except ImportError as error:
        raise ImportError(f"{what} needs jinja2: {EXTRA}.") from error
    return jinja2


def template(name: str, what: str) -> Any:
    """Return a template.

    Args:
        name: File in `kprune/report/templates`.
        what: See `require_jinja2`.

    Raises:
        ImportError: jinja2 is not installed.
    """
    jinja2 = require_jinja2(what)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("kprune.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)
