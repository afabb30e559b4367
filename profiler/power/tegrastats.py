"""Lines of NVIDIA's `tegrastats`, every generation from JetPack 2 to 7, as records.

The format changes between releases and carries no version, so a line is read piece by piece to its end: an unknown
piece is an error with its text, never skipped. Energy does not come from here (see docs/energy.md): this reads existing
logs, and checks the sysfs readings.
"""

import re
from typing import Dict, Iterable, List, Match, NamedTuple, Optional, Pattern, Tuple


class TegrastatsError(ValueError):
    """A line that is no tegrastats line, with the unknown piece."""


class Rail(NamedTuple):
    now_mw: int
    mean_mw: int  # since tegrastats started, not over a moving window
    max_mw: Optional[int]  # JetPack 7.2 and later (inferred from numbers)


class Engine(NamedTuple):
    """GR3D (the GPU), EMC (memory), NVDEC, VIC, ... What a line omits is None."""

    on: bool
    load_percent: Optional[int]
    clocks_mhz: Tuple[int, ...]  # several for a GPU with several clusters


class Core(NamedTuple):
    load_percent: int
    clock_mhz: Optional[int]


class Record(NamedTuple):
    time_s: Optional[float]  # put in front by the program that kept the log, `unix_time::`
    date: Optional[
        str
    ]  # "MM-DD-YYYY HH:MM:SS", local time, whole seconds; or as the program that kept the log wrote it
    ram_used_mb: int
    ram_total_mb: int
    swap_used_mb: Optional[int]  # None: the line has no SWAP
    swap_total_mb: Optional[int]
    cores: Tuple[Optional[Core], ...]  # None: switched off
    engines: Dict[str, Engine]  # by name without "_FREQ"
    temperatures_c: Dict[str, Optional[float]]  # None: the sensor is off
    rails: Dict[str, Rail]

    @property
    def rails_mw(self) -> Dict[str, int]:
        return {label: rail.now_mw for label, rail in self.rails.items()}

    @property
    def gr3d(self) -> Optional[Engine]:
        return self.engines.get("GR3D")


_TIME = re.compile(r"(\d+(?:\.\d+)?)::")
_DATE = re.compile(
    r"(\d\d-\d\d-\d{4} \d\d:\d\d:\d\d) |"  # tegrastats itself
    r"\[?(\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(?:[.,]\d+)?(?:Z|[+-]\d\d:?\d\d)?)\]?\s*[:;,|-]?\s+(?=RAM|\d)"  # the program that kept the log
)
_RAM = re.compile(r"RAM (\d+)/(\d+)MB(?: ?\(lfb [^)]*\))?(?= |$)")
_SWAP = re.compile(r"SWAP (\d+)/(\d+)MB(?: ?\(cached \d+MB\))?(?= |$)")
_IRAM = re.compile(r"IRAM \d+/\d+kB(?: ?\(lfb [^)]*\))?(?= |$)")
_CPU = re.compile(r"(?:CPU|cpu) \[([^\]]*)\](?:@(\d+))?")  # before JetPack 3 one clock behind the list
_CORE = re.compile(r"(\d+)%(?:@(\d+))?$")
_LIMIT = re.compile(r"EDP limit \d+")  # before JetPack 3
_MTS = re.compile(r"MTS fg \d+% bg \d+%")
_TEMPERATURE = re.compile(r"([A-Za-z][\w-]*)@(-?\d+(?:\.\d+)?)C(?:/-?\d+(?:\.\d+)?C)*(?= |$)")
_RAIL = re.compile(r"([A-Za-z]\w*) (\d+)(?:mW)?/(\d+)(?:mW)?(?:/(\d+)(?:mW)?)?(?= |$)")
_ENGINE = re.compile(r"([A-Z]\w*) (?=\S)(?:(off)|(?:(\d+)%)?(?:@(?:\[([\d,]+)\]|(\d+)))?|(\d+))(?= |$)")
_HEADING = re.compile(  # of `date`, in both of Ubuntu's forms; or a remark
    r"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun) (?:\w{3} +\d+ \d\d:\d\d:\d\d \w+ \d{4}|\d+ \w{3} \d{4} \d\d:\d\d:\d\d [AP]M \w+)$|#"
)

_OFF_C = -256.0
_NOT_A_TEMPERATURE = "PMIC"  # a constant 50 or 100
_NOT_CONNECTED = "NC"


def parse(line: str) -> Record:
    """One line as a Record. Raises TegrastatsError."""
    rest = line.strip()
    if not rest:
        raise TegrastatsError("empty line")
    stamp, rest = _take(_TIME, rest)
    date, rest = _take(_DATE, rest)
    again, rest = _take(_DATE, rest)  # tegrastats' own, after that of another program
    date = again or date
    memory, rest = _take(_RAM, rest)
    if memory is None:
        raise TegrastatsError("no RAM field at {!r}".format(rest[:60]))
    swap: Optional[Match[str]] = None
    cores: Tuple[Optional[Core], ...] = ()
    engines: Dict[str, Engine] = {}
    temperatures: Dict[str, Optional[float]] = {}
    rails: Dict[str, Rail] = {}
    while rest:
        for pattern in (_SWAP, _IRAM, _CPU, _MTS, _LIMIT, _TEMPERATURE, _RAIL, _ENGINE):
            match, left = _take(pattern, rest)
            if match is not None and left != rest:
                break
        else:
            raise TegrastatsError("not understood: {!r}".format(rest[:60]))
        rest = left
        if pattern is _SWAP:
            swap = match
        elif pattern is _CPU:
            cores = tuple(_core(text, match.group(2)) for text in match.group(1).split(","))
        elif pattern is _TEMPERATURE and match.group(1) != _NOT_A_TEMPERATURE:
            value = float(match.group(2))
            temperatures[match.group(1)] = None if value == _OFF_C else value
        elif pattern is _RAIL and match.group(1) != _NOT_CONNECTED:
            now, mean, highest = match.group(2), match.group(3), match.group(4)
            rails[match.group(1)] = Rail(int(now), int(mean), int(highest) if highest else None)
        elif pattern is _ENGINE:
            name = match.group(1)
            engines[name[: -len("_FREQ")] if name.endswith("_FREQ") else name] = _engine(match)
    return Record(
        time_s=float(stamp.group(1)) if stamp else None,
        date=(date.group(1) or date.group(2)) if date else None,
        ram_used_mb=int(memory.group(1)),
        ram_total_mb=int(memory.group(2)),
        swap_used_mb=int(swap.group(1)) if swap else None,
        swap_total_mb=int(swap.group(2)) if swap else None,
        cores=cores,
        engines=engines,
        temperatures_c=temperatures,
        rails=rails,
    )


def parse_log(lines: Iterable[str]) -> Tuple[List[Record], List[Tuple[int, str, TegrastatsError]]]:
    """The records, and (line number, line, error) of each fault. Empty lines, remarks and a lone date are skipped."""
    records: List[Record] = []
    faults: List[Tuple[int, str, TegrastatsError]] = []
    for number, line in enumerate(lines, 1):
        if not line.strip() or _HEADING.match(line.strip()):
            continue
        try:
            records.append(parse(line))
        except TegrastatsError as err:
            faults.append((number, line.rstrip("\n"), err))
    return records, faults


def _take(pattern: Pattern[str], text: str) -> Tuple[Optional[Match[str]], str]:
    match = pattern.match(text)
    return match, text[match.end() :].lstrip() if match else text


def _core(text: str, clock_of_all: Optional[str]) -> Optional[Core]:
    text = text.strip()
    if text == "off":
        return None
    match = _CORE.match(text)
    if match is None:
        raise TegrastatsError("CPU core not understood: {!r}".format(text))
    clock = match.group(2) or clock_of_all
    return Core(int(match.group(1)), int(clock) if clock else None)


def _engine(match: Match[str]) -> Engine:
    _, off, load, several, one, alone = match.groups()
    clocks = tuple(int(clock) for clock in (several or one or alone or "").split(",") if clock)
    return Engine(off is None, int(load) if load else None, clocks)
