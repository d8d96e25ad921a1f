"""Print the JSON Schema of recipes, for editors."""

import typer

from trimtab.common.settings import CommandSettings


class SchemaSettings(CommandSettings):
    """No settings."""

    alone = False


SETTINGS = SchemaSettings


def main(settings: SchemaSettings) -> None:
    """Print the schema."""
    from trimtab.common.terminal import quiet

    quiet()
    from trimtab.runs.schema import text

    typer.echo(text(), nl=False)
