from .choose import make_toolbox as make_toolbox
from .choose import restore_toolbox as restore_toolbox
from .code import CodeTools as CodeTools
from .models import ModelTool as ModelTool
from .named import NamedTools as NamedTools
from .toolbox import Toolbox as Toolbox
from .toolbox import ToolboxName as ToolboxName
