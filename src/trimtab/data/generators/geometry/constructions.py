"""All constructions: those of `figures`, then those of `points`; items are drawn in this order."""

from trimtab.data.generators.geometry import figures, points  # noqa: F401  (they fill `ALL`)
from trimtab.data.generators.geometry.construction import ALL as ALL
from trimtab.data.generators.geometry.construction import Construction as Construction
from trimtab.data.generators.geometry.construction import filled as filled
from trimtab.data.generators.geometry.construction import sides as sides
