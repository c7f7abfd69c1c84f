from .pages import FamilyWorld as FamilyWorld
from .pages import MVToolProcedural as MVToolProcedural
from .plates import PlateWorld as PlateWorld
from .plates import SampleSource as SampleSource
