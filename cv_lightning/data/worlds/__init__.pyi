from .family_world import FamilyWorld as FamilyWorld
from .family_world import MVToolProcedural as MVToolProcedural
from .plates import PlateWorld as PlateWorld
from .strategy import StrategyWorld as StrategyWorld
