"""Reports how a run goes and how it ends: in status.json, and on stderr."""

import traceback
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from cil_func.errors import CilError, DiskError, MachineError, OwnCodeError, StoppedError, printable
from cil_func.parallel.failure_watch import Failure
from cil_func.parallel.processes import ALONE, Processes
from cil_func.runs import files, output, status

TRACEBACK = "traceback.txt"  # in the run directory


@dataclass
class StatusReporter:
    """Writes status.json for a run of one or several processes, and prints failures on stderr.

    Only rank 0 writes while the run goes on. After a failure any surviving process writes. Nothing is written before
    `take_directory` is called, since the directory may hold another run until then.

    directory: the run directory.
    processes: those of the run; to be set before any other method is called.
    owns: whether failures may be written: the directory is known to hold this run, and the run is not finished.
    done: whether the run is finished; a later failure doesn't change that.
    """

    directory: Path
    processes: Processes = field(default_factory=lambda: ALONE)
    owns: bool = False
    done: bool = False

    def __post_init__(self):
        self._status = status.Status(self.directory)

    def take_directory(self) -> None:
        """Allows failures to be written. Call it once the directory is known to hold this run or none."""
        self.owns = True

    def running(self) -> None:
        """On rank 0, writes that the run goes on and deletes the traceback of an earlier attempt."""
        if self.processes.first:
            self._status.running()
            (self.directory / TRACEBACK).unlink(missing_ok=True)

    def finished(self) -> None:
        """On rank 0, writes that the run is finished. Later failures are printed, but don't change the exit status."""
        if self.processes.first:
            self._status.finished()
        self.owns, self.done = False, True

    def stopped(self, exit_code: int, message: str = "stopped at once; the same command goes on") -> None:
        """Writes that a signal stopped the run. exit_code: 129, 130 or 143; message: for people."""
        self._write(exit_code, message)

    def failed(self, error: BaseException) -> int:
        """Reports that this process has failed by `error`. Returns the exit status; 0 if the run was finished before.

        Several processes may fail for the same reason. The first one that reports it writes and prints its message; the
        others then report that failure and not their own. A bug is printed with its traceback, other errors as a line;
        before that of own code comes the traceback, if it can't be kept in the run directory.
        """
        known = isinstance(error, (CilError, StoppedError))
        message = str(error) if known else printable(f"{type(error).__name__}: {error}")
        if self.done:
            self.print_line(f"the run is finished; after that: {message}")
            return 0
        kept = self._keep_traceback(error)
        message += kept
        rank, exit_code = self.processes.rank, getattr(error, "exit_status", 1)
        failure: Failure = {"rank": rank, "exit_code": exit_code, "message": message, "lost": False}
        if self.processes.watch:
            named = message if isinstance(error, StoppedError) else f"rank {rank}: {message}"
            failure = self.processes.watch.report_failure(exit_code, named)
        if failure["lost"]:
            self.lost(failure)
            return failure["exit_code"]
        self._write(failure["exit_code"], failure["message"])
        if failure["rank"] == rank and known:
            if isinstance(error, OwnCodeError) and error.__cause__ and not kept:
                traceback.print_exception(error.__cause__)
            self.print_line(failure["message"])
        elif failure["rank"] == rank:
            traceback.print_exception(error)
        return failure["exit_code"]

    def lost(self, failure: Failure) -> None:
        """Writes the failure of another process. If that process can't print it, one on each machine does.

        failure: of the process that failed, from `FailureWatch.report_failure`.
        """
        self._write(failure["exit_code"], failure["message"])
        launch = self.processes.launch
        first = launch.rank - launch.local_rank  # of this machine; each machine's launcher shows what is printed there
        if failure["lost"] and launch.local_rank == (1 if failure["rank"] == first and launch.local_size > 1 else 0):
            self.print_line(failure["message"])

    def print_line(self, message: str) -> None:
        """Prints one line on stderr, if it can still be written to."""
        output.tell(f"train.py: {message}")

    def _keep_traceback(self, error: BaseException) -> str:
        """Writes traceback.txt for a failure of the machine or of a user's own function.

        Returns text to put behind the message, which names that file; "" if none is written.
        """
        if not (self.owns and isinstance(error, MachineError | OwnCodeError) and error.__cause__):
            return ""
        path, lines = self.directory / TRACEBACK, traceback.format_exception(error.__cause__)
        try:
            files.write_text(path, "".join(lines).encode("utf-8", "backslashreplace").decode())
        except (DiskError, MemoryError):
            return ""
        return printable(f" (details: {path})")

    def _write(self, exit_code: int, message: str) -> None:
        """Writes the end of the run by a signal (exit code above 128) or an error, if the directory is this run's."""
        if self.owns:
            with suppress(DiskError):  # the failure itself may be a full disk
                (self._status.stopped if exit_code > 128 else self._status.failed)(exit_code, message)
