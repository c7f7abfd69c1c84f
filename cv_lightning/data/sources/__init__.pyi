from .episodes import RecordedEpisodes as RecordedEpisodes
from .file_source import FileSource as FileSource
from .file_source import Rows as Rows
from .opening import FORMATS as FORMATS
