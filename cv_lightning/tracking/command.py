"""`python -m cv_lightning register RUN --name NAME`: registers the policy of a run as a model version in MLflow."""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from callbacks.mlflow.parent import NOTE
from cv_lightning.console.command_parser import CommandParser
from cv_lightning.console.versions import version_of
from cv_lightning.errors import ConfigError
from cv_lightning.tracking.stores import connect, one_line_errors
from cv_lightning.tracking.uri import check_uri, sqlite_path

#: A file that every exported policy has.
_EXPORTED = "conversation.json"


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line; raises `ConfigError` if it is wrong."""
    parser = CommandParser(
        "register",
        "Copies the exported policy of a run to the run's MLflow store and registers it as a new version of a model, "
        "which mlflow.pyfunc.load_model loads.",
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="a run's folder, e.g. runs/tiny/rl")
    parser.add_argument("--name", required=True, help="name of the model; if it exists, it gets a new version")
    parser.add_argument("--policy", type=Path, metavar="FOLDER", help="the exported policy (default: RUN/policy)")
    parser.add_argument("--tracking-uri", metavar="URI", help="where the run is (default: as the run's folder says)")
    return parser.parse_args(list(arguments))


def main(arguments: Sequence[str]) -> int:
    """Register the policy that the command line names; see `parse`.

    Raises:
        ConfigError: The policy, the run or the store does not exist.
        DataError: The store does not answer, or rejects the name.
    """
    options = parse(arguments)
    policy = options.policy or options.run / "policy"
    if not (policy / _EXPORTED).is_file():
        raise ConfigError(f"{policy}: not an exported policy ({_EXPORTED} is missing). Name one with --policy.")
    uri, run_id = _run_of(options.run, options.tracking_uri)
    version = register(policy, options.name, uri, run_id)
    print(f"registered: models:/{options.name}/{version} in {uri} (docs/metrics.md says how to load it)")
    return 0


def _run_of(folder: Path, tracking_uri: str | None) -> tuple[str, str]:
    """Store and id of the run that logged to a folder."""
    try:
        note = json.loads((folder / NOTE).read_text(encoding="utf-8"))
        uri, run_id = tracking_uri or str(note["tracking_uri"]), note["run_id"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{folder}: no run logged to MLflow from this folder ({NOTE} cannot be read).") from error
    if run_id is None:
        raise ConfigError(
            f"{folder}: its run has not reached MLflow yet. Once the server is up, start any run in this folder."
        )
    check_uri(uri)
    database = sqlite_path(uri)
    if database is not None and not database.is_file():
        raise ConfigError(f"There is no file {str(database)!r}. Name the run's store with --tracking-uri.")
    return uri, str(run_id)


def register(policy: Path, name: str, tracking_uri: str, run_id: str) -> int:
    """Copy a policy into a model of a run, with the run's test metrics, register it, and return the version.

    Args:
        policy: Folder of the exported policy.
        name: Name of the registered model.
        tracking_uri: The store of the run.
        run_id: The run; its state and times do not change.

    Raises:
        DataError: The store does not answer, or rejects the request.
    """
    with one_line_errors(tracking_uri, f"model {name!r}", "registered"):
        client = connect(tracking_uri)
        import mlflow
        from mlflow.models import Model

        from cv_lightning.tracking.policy_model import ARTIFACT, SIGNATURE

        run = client.get_run(run_id)
        mlflow.set_tracking_uri(tracking_uri)
        mlflow.set_experiment(experiment_id=run.info.experiment_id)
        package = version_of("cv-lightning")
        with warnings.catch_warnings():
            # MLflow asks for an input example, but would load all weights here to answer it. The signature is given.
            warnings.filterwarnings("ignore", "(?s).*(input example|infer signature)")
            # `mlflow.pyfunc.log_model` would resume the run and end it again.
            info = Model.log(
                artifact_path=None,
                name=ARTIFACT,
                flavor=mlflow.pyfunc,
                run_id=run_id,
                step=_tested_at(client, run),
                registered_model_name=name,
                python_model=str(Path(__file__).with_name("registered_policy.py")),
                artifacts={ARTIFACT: str(policy.resolve())},
                signature=SIGNATURE,
                pip_requirements=[f"cv-lightning=={package}"] if package is not None else [],
            )
        return int(info.registered_model_version)


def _tested_at(client: Any, run: Any) -> int:
    """The step of the run's last test; MLflow shows its metrics beside the model. 0 if there was no test."""
    tested = next((name for name in sorted(run.data.metrics) if name.startswith("test/")), None)
    return client.get_metric_history(run.info.run_id, tested)[-1].step if tested is not None else 0
