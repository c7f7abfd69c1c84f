"""The errors that a user sees. Each message names the fault, its place and the remedy."""


class CVLightningError(Exception):
    """Base of every error that this project raises on purpose; the CLI prints it without a traceback."""


class ConfigError(CVLightningError):
    """A configuration value, class path or file that cannot be used."""


class DataError(CVLightningError):
    """A row, image or annotation that cannot become a `Sample`."""


class RowError(DataError):
    """One row that cannot be used while others can: training leaves it out."""


class CheckpointError(CVLightningError):
    """A checkpoint or policy folder that does not fit what it is loaded into."""


class ConversationError(CVLightningError):
    """A conversation that cannot be written as tokens without losing something."""


class TrainingError(CVLightningError):
    """A run that went wrong and is configured to stop in that case."""


class EngineError(CVLightningError):
    """An engine that can no longer sample, or that does not sample as requested."""


def first_line(error: BaseException) -> str:
    """The first nonempty line of an error's text, or the name of its class if the text is empty."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
