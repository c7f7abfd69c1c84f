"""Lightning's strategy for sharded training, over all processes of the run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from datetime import timedelta
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import nn
from torch.distributed import DistNetworkError, DistStoreError, distributed_c10d
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict import get_model_state_dict, get_optimizer_state_dict
from torch.distributed.checkpoint.state_dict_saver import async_save

from cv_lightning.cli.checkpoints import refuse_other_model
from cv_lightning.errors import CheckpointError, TrainingError

#: The file that `torch.distributed.checkpoint` writes last, and the file with the rest of Lightning's checkpoint.
_DONE, _REST = ".metadata", "meta.pt"


class ShardedStrategy(ModelParallelStrategy):
    """FSDP2 over all processes, on one machine or many; the module's `configure_model` applies it.

    A checkpoint is a folder to which each process writes its part. It can be resumed on another number of processes.

    Args:
        reduce_each_micro_batch: Exchange gradients after every micro-batch and hold only this process's part of them.
            If not, a step exchanges them once, and until then each device holds the gradients of all trained
            parameters in float32.
        timeout_s: Seconds that a process waits for the others before the run ends.
        start_timeout_s: Seconds that a process waits until all have started.
    """

    def __init__(
        self, reduce_each_micro_batch: bool = False, timeout_s: float = 1800.0, start_timeout_s: float = 300.0
    ) -> None:
        super().__init__(data_parallel_size=1, tensor_parallel_size=1, timeout=timedelta(seconds=start_timeout_s))
        self.reduce_each_micro_batch = reduce_each_micro_batch
        self.timeout_s = timeout_s
        self.start_timeout_s = start_timeout_s
        self._writers: Any = None
        self._writing: Future[Any] | None = None
        self._when_written: Callable[[], None] | None = None

    def setup_environment(self) -> None:
        """Start the process group; all processes form one mesh.

        Raises:
            TrainingError: Not all processes started in time.
        """
        self._data_parallel_size = self.num_nodes * self.num_processes
        try:
            super().setup_environment()
        except (DistNetworkError, DistStoreError) as error:
            raise TrainingError(
                f"trainer.strategy: expected {self._data_parallel_size} processes within {self.start_timeout_s:g} s, "
                "but one did not start or has ended. Look at its messages, or raise trainer.strategy.start_timeout_s."
            ) from error
        timeout = timedelta(seconds=self.timeout_s)
        distributed_c10d._get_default_store().set_timeout(timeout)
        for group in (torch.distributed.group.WORLD, self.device_mesh.get_group("data_parallel")):
            distributed_c10d._set_pg_timeout(timeout, group)

    @property
    def _module(self) -> nn.Module:
        if self.model is None:
            raise ValueError("The strategy has no module yet")
        return self.model

    # ---- checkpoints -------------------------------------------------------------------------------------------------

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """This process's part of the parameters, on its device, because the writer copies them once."""
        return get_model_state_dict(self._module)

    def optimizer_state(self, optimizer: Any) -> dict[str, Any]:
        """This process's part of an optimizer's state, on its device."""
        return get_optimizer_state_dict(self._module, getattr(optimizer, "_optimizer", optimizer))

    @contextmanager
    def in_background(self, when_written: Callable[[], None]) -> Iterator[None]:
        """Inside, `save_checkpoint` returns once the values are copied, and a thread writes them.

        Args:
            when_written: Called on the first process by `finish_writing`, if all processes have written.
        """
        self._when_written = when_written
        try:
            yield
        except BaseException:
            self._when_written = self._writing = None
            raise

    @property
    def is_writing(self) -> bool:
        """Whether a checkpoint is still being written in the background."""
        return self._writing is not None and not self._writing.done()

    def finish_writing(self) -> None:
        """Wait for a checkpoint that is being written in the background, if there is one.

        Raises:
            OSError: The checkpoint could not be written.
        """
        writing, when_written = self._writing, self._when_written
        self._writing = self._when_written = None
        if writing is None:
            return
        _result(writing)
        if when_written is not None and self.is_global_zero:
            when_written()

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None) -> None:
        """Write a checkpoint as a folder; all processes call this together.

        Raises:
            OSError: The checkpoint cannot be written; raised on all processes.
        """
        path = Path(self.broadcast(str(filepath)))
        when_written, self._when_written = self._when_written, None
        state = {"state_dict": checkpoint.pop("state_dict")}
        state |= {f"optimizer_{index}": each for index, each in enumerate(checkpoint.pop("optimizer_states", []))}
        self._write_rest(checkpoint, path)
        if self._writers is None:  # a group of its own keeps the thread's messages apart from the training's
            self._writers = torch.distributed.new_group(backend="gloo")
        writer = FileSystemWriter(path, sync_files=True)
        writing: Any = async_save(state, storage_writer=writer, process_group=self._writers)
        if when_written is None:
            _result(writing)
        else:
            self._writing, self._when_written = writing, when_written

    def _write_rest(self, checkpoint: dict[str, Any], path: Path) -> None:
        """Write the unsharded part on the first process; all processes learn whether that failed."""
        fault = None
        if self.is_global_zero:
            try:
                path.mkdir(parents=True, exist_ok=True)
                buffer = BytesIO()  # torch's file writer does not report a full disk
                torch.save(checkpoint, buffer)
                (path / _REST).write_bytes(buffer.getbuffer())
            except OSError as error:
                fault = (error.errno or 5, error.strerror or str(error))
        if fault := self.broadcast(fault):
            raise OSError(*fault)

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Read a checkpoint that any number of processes wrote; each process reads its part.

        Raises:
            CheckpointError: The checkpoint is a file, is incomplete, or belongs to another model.
        """
        path = Path(self.broadcast(str(checkpoint_path)))
        if not path.is_dir():
            raise CheckpointError(
                f"ckpt_path: {path} is the file of a run that was not sharded; a sharded run continues from a folder. "
                "Resume it without experiments/sharded.yaml, or start from the policy that it exported (policy.source)."
            )
        if not (path / _DONE).exists() or not (path / _REST).exists():
            raise CheckpointError(f"ckpt_path: {path} is incomplete. Resume from another checkpoint, or start again.")
        stored = FileSystemReader(path).read_metadata().state_dict_metadata
        prefix = "state_dict."
        shapes = {
            name.removeprefix(prefix): tuple(tensor.size)
            for name, tensor in stored.items()
            if name.startswith(prefix) and isinstance(tensor, TensorStorageMetadata)
        }
        own: dict[str, Any] = get_model_state_dict(self._module)
        refuse_other_model(shapes, {name: tuple(value.shape) for name, value in own.items()})
        return super().load_checkpoint(path, weights_only)


def _result(writing: Future[Any]) -> None:
    """Wait; a failure of any process is raised as `OSError`, which is the usual cause."""
    try:
        writing.result()
    except CheckpointException as error:
        cause = next((each for each, _ in error.failures.values()), error)
        if isinstance(cause, OSError):
            raise OSError(cause.errno, cause.strerror or str(cause)) from error
        text = " ".join(str(cause).split())
        if "inline_container" in text:  # torch's file writer hides the system's message
            text = "a file could not be written completely; the disk may be full"
        raise OSError(5, text) from error
