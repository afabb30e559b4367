"""The agent's command line: probe, setup, run, restore, version. JSON on standard output; events on standard error."""

import argparse
import json
import os
import platform
import sys
from typing import List, Optional

from profiler import (
    AGENT_VERSION,
    backends,
    board,
    guard,
    job,
    messages,
    power,
    setup,
    snapshot,
    state,
    supervisor,
    worker,
)
from profiler.errors import AgentError, Interrupted, SetupError, from_os_error
from profiler.fields import JsonObject
from profiler.manifest import read_manifest
from profiler.system import System


def main(argv: Optional[List[str]] = None) -> int:
    """Run one command; its exit code (see profiler/errors.py)."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # ONNX Runtime reads it when the measuring process imports it
    parser = argparse.ArgumentParser(prog="agent", description="Measures models on the machine it runs on.")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    probing = commands.add_parser("probe", help="describe this machine, and whether a backend works on it")
    probing.add_argument("--backend", default="onnxruntime", choices=backends.names(), help="default: %(default)s")
    probing.add_argument("--threads", type=int, default=1, metavar="N", help="default: %(default)s")
    probing.add_argument("--root", metavar="DIR", default="/", help="where the system's files are (default: /)")
    running = commands.add_parser("run", help="carry out a job directory, from where its journal ends")
    running.add_argument("--job", required=True, metavar="DIR", help="the job directory")
    running.add_argument("--home", metavar="DIR", default=default_home(), help="default: %(default)s")
    running.add_argument("--root", metavar="DIR", default="/", help="where the system's files are (default: /)")
    copying = commands.add_parser("snapshot", help="copy the system files that this agent reads")
    copying.add_argument("--home", metavar="DIR", default=default_home(), help="default: %(default)s")
    copying.add_argument("--root", metavar="DIR", default="/", help="where the system's files are (default: /)")
    setting = commands.add_parser("setup", help="apply a job's board settings; needs sudo; restored when its run ends")
    setting.add_argument("--job", required=True, metavar="DIR", help="the job directory")
    setting.add_argument("--home", metavar="DIR", default=default_home(), help="default: %(default)s")
    setting.add_argument("--root", metavar="DIR", default="/", help="where the system's files are (default: /)")
    setting.add_argument("--password", action="store_true", help="read sudo's password from standard input")
    restoring = commands.add_parser("restore", help="restore a board that an earlier campaign left changed; needs sudo")
    restoring.add_argument("--home", metavar="DIR", default=default_home(), help="default: %(default)s")
    restoring.add_argument("--root", metavar="DIR", default="/", help="where the system's files are (default: /)")
    restoring.add_argument("--password", action="store_true", help="read sudo's password from standard input")
    commands.add_parser("guard", help="restores a set-up board; started by `setup`").add_argument("request")
    commands.add_parser("version", help="print the agent's version")
    commands.add_parser("worker", help="the measuring process; started by `run`")
    args = parser.parse_args(argv)
    if args.command is None:
        parser.error("give a COMMAND: probe, setup, run, restore or version")
    try:
        if args.command == "worker":
            return worker.main()
        if args.command == "guard":
            return guard.main(args.request)
        if args.command == "setup":
            manifest = read_manifest(args.job)
            if manifest.board_setup is None:
                raise SetupError("the job in {} changes no setting of the board".format(args.job), "start `agent run`")
            answer = setup.set_up(manifest.board_setup, manifest.job, args.home, System(args.root), _password(args))
        elif args.command == "restore":
            answer = setup.restore(args.home, System(args.root), _password(args))
        elif args.command == "probe":
            answer = probe(args.backend, args.threads, System(args.root))
        elif args.command == "snapshot":
            answer = snapshot.take(System(args.root), args.home)
        elif args.command == "run":
            answer = job.run(os.path.abspath(args.job), os.path.abspath(args.home), System(args.root))
        else:
            answer = {"kind": "version", "agent_version": AGENT_VERSION, "python": platform.python_version()}
    except KeyboardInterrupt:
        return Interrupted.exit_code  # whoever interrupts waits for no answer; a guard at work restores the board
    except AgentError as err:
        return _fail(err)
    except OSError as err:
        return _fail(from_os_error(err))
    _print(answer)
    return 0


def _fail(err: AgentError) -> int:
    job.log("ended: " + err.message)
    _print(err.to_json())
    return err.exit_code


def _print(answer: JsonObject) -> None:
    try:
        print(json.dumps(answer), flush=True)
    except OSError:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 its output is a file on a full disk; the log may say more


def _password(args: argparse.Namespace) -> Optional[str]:
    """Sudo's, from the first line of standard input."""
    return sys.stdin.readline().rstrip("\n") if args.password else None


def default_home() -> str:
    """The agent's home on this machine: LIGHTNAS_EDGE_HOME, else ~/.lightnas-edge."""
    return os.environ.get("LIGHTNAS_EDGE_HOME") or os.path.join(os.path.expanduser("~"), ".lightnas-edge")


def probe(backend: str, threads: int, system: System) -> JsonObject:
    """This machine, its state now, and what can be measured on it; what is missing is an answer, not an error."""
    description = board.identify(board.load_catalog(), system.proc)
    states = state.StateReader([os.getpid()], description["ignored_thermal_zones"], system.proc, system.sysfs)
    sensors = power.find_sensors(system.sysfs, description)
    answer: JsonObject = {
        "kind": "probe",
        "schema": 1,
        "agent_version": AGENT_VERSION,
        "python": {"version": platform.python_version(), "path": sys.executable},
        "board": board.describe(description, system),
        "title": description.get("title"),
        "state": states.before().to_json(),
        "temperatures_c": state.temperatures_c(system.sysfs),
        "disk_free_mb": system.disk_free_mb(default_home()),
        "fingerprint": board.fingerprint(description, system),
        "backend": backend,
        "runtime": None,
        "runtime_at": None,
        "error": None,
        "energy": sensors.header(),
        "missing_sensors": [dict(entry._asdict()) for entry in sensors.missing],
        "power_modes": description.get("power_modes") or [],
        "tools": setup.tools(system),
    }
    sensors.close()
    # In a process of its own, as when measuring: a runtime may take its process down, or hang.
    configuration = messages.ConfigureRequest(
        backend=backend,
        precision="fp32",
        batch=1,
        threads=threads,
        cuda_graph=False,
        home=default_home(),
        root=system.root,
        board=description,
        power_mode=answer["fingerprint"]["power_mode"],
        clocks=answer["fingerprint"]["clocks"],
        min_sample_ms=0.0,
        samples_per_visit=1,
        min_single_ms=0.0,
        inferences_per_visit=1,
    )
    measuring = supervisor.Supervisor(configuration, supervisor.Stop(), supervisor.START_LIMIT_S)
    try:
        found = measuring.configure()
        answer["fingerprint"].update(found.fingerprint)
        answer["runtime"], answer["runtime_at"] = found.runtime, found.runtime_at
    except AgentError as err:
        answer["error"] = err.to_json()
    finally:
        measuring.close()
    return answer


if __name__ == "__main__":
    sys.exit(main())
