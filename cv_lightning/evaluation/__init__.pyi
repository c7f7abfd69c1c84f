from .answer_log import AnswerLog as AnswerLog
from .answer_log import AnswerRecord as AnswerRecord
from .conditions import Condition as Condition
from .metrics import TrajectoryMetrics as TrajectoryMetrics
from .questions import ConditionSet as ConditionSet
from .questions import EvaluationItem as EvaluationItem
from .questions import RobustnessDataModule as RobustnessDataModule
from .table import EvaluationTable as EvaluationTable
