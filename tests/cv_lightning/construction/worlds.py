"""The worlds whose questions become episodes."""

from __future__ import annotations

from cv_lightning.data.worlds.family_world import FamilyWorld
from cv_lightning.data.worlds.plates import PlateWorld

PLATES = PlateWorld(seed=3)


PAGES = FamilyWorld(seed=3)
