from .model_teacher import ModelTeacher as ModelTeacher
from .teacher import OracleTeacher as OracleTeacher
from .teacher import Teacher as Teacher
