"""What all pages share: their templates."""

from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined, Template


@cache
def template(name: str) -> Template:
    """A page's template; what it is given is escaped unless it is Markup, and a name that is missing is an error."""
    environment = Environment(
        loader=PackageLoader("trimtab.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)
