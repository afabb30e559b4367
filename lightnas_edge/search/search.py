"""A search from its question to its networks: checked, begun or resumed, run, and chosen from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch

from lightnas_edge.data import DataSet
from lightnas_edge.errors import BudgetError, ConfigError, InfeasibleBudgetError
from lightnas_edge.nn import Ranks
from lightnas_edge.records.run import FoundNetwork
from lightnas_edge.runs import Run
from lightnas_edge.search.candidates import Candidate
from lightnas_edge.search.choice import Choice
from lightnas_edge.search.config import LIGHTNAS, SearchConfig
from lightnas_edge.search.confirm import Confirming, confirm_choice, require_tables
from lightnas_edge.search.constraints import Budget, arithmetic_of_board, count_for, require_one_space
from lightnas_edge.search.images import check_images
from lightnas_edge.search.loop import Event, SearchLoop
from lightnas_edge.search.results import (
    SearchResult,
    Sources,
    add_score,
    begin_run,
    is_scored,
    run_question,
    write_results,
)
from lightnas_edge.search.selection import check_budget
from lightnas_edge.search.state import SearchState
from lightnas_edge.search.teacher import Teacher
from lightnas_edge.space import Space


def run_search(
    run_dir: Path,
    space: Space,
    data: DataSet,
    budgets: Sequence[Budget] | Budget,
    config: SearchConfig,
    *,
    resume: bool = True,
    sources: Sources | None = None,
    on_event: Callable[[Event], None] | None = None,
    confirm: Confirming | None = None,
    teacher: Teacher | None = None,
) -> list[SearchResult]:
    """Search for the best network of a space within each budget: one pass, one supernet, however many budgets.

    Writes `search/metrics.jsonl`, `search/checkpoint.pt` and what `write_results` writes under `run_dir`. Run again
    with the same arguments it resumes from the last checkpoint, and on the CPU ends with the same bits as if it had
    never stopped. Under `torchrun` every process calls it alike, and the first one writes.

    Args:
        run_dir: as `begin_run` left it; a new one is begun where there is none.
        space: its number of classes is replaced by that of the data.
        budgets: with predictors of the same layers and operators.
        sources: what the run of each budget keeps with its network: see `write_results`.
        on_event: called with every line of the metrics as it is written, and with {"kind": "start", ...} first.
        confirm: measure networks before one is handed over; in one process.
        teacher: whose hash the configuration names.

    Returns:
        One result per budget, in their order.

    Raises:
        BudgetError, InfeasibleBudgetError: before any training. With `confirm` also in the end, when what was measured leaves
            a budget without a network; the networks of the others are written.
        DivergedError: the loss left the finite numbers.
        DataError: before any training: too few images, or one class. Later: an image cannot be read.
        RunError: the directory holds another search, or cannot be written.
        KeyboardInterrupt: after Ctrl-C, with a checkpoint of the last finished step.
    """
    budgets = count_for([budgets] if isinstance(budgets, Budget) else budgets, len(data.classes))
    check_budgets(space, budgets, config)
    check_images(data, config)
    if confirm is not None:
        require_tables(sources or {})
    if config.teacher != (None if teacher is None else teacher.sha256):
        raise ConfigError("teacher: the configuration names other weights than those that are given")
    space = space.with_classes(len(data.classes))
    with torch.random.fork_rng():
        run = _open_run(run_dir, space, data, budgets, config)
        on_event = on_event or _ignore
        state = SearchState(space, data, budgets, config, teacher)
        choice = Choice(state, data, on_event)
        loop = SearchLoop(
            state,
            run.search_folder,
            what=f"the search in {run.folder}",
            compared_images=choice.compared_images(_contested(budgets, [])),
            on_event=on_event,
        )
        with _writing(run):
            elapsed_s = loop.run(resume=resume)
            return _conclude(run, choice, budgets, [], elapsed_s, sources, confirm)


def add_budgets(
    run_dir: Path,
    space: Space,
    data: DataSet,
    budgets: Sequence[Budget],
    config: SearchConfig,
    *,
    sources: Sources | None = None,
    on_event: Callable[[Event], None] | None = None,
    confirm: Confirming | None = None,
) -> list[SearchResult]:
    """Networks for further budgets, other boards included, from a finished search; nothing is trained.

    Args:
        config: as the search was run; confidence, candidates, device and two_sided may differ.
        budgets: the further ones, with predictors of the same layers and operators.
        confirm: as of `run_search`.

    Raises:
        BudgetError, InfeasibleBudgetError, RunError: a budget that cannot be kept; a search that has not ended.
    """
    if config.method == LIGHTNAS:
        raise BudgetError(
            "the published method learns for one budget: its alpha contains the cost of that board and target",
            hint="search with another --method to add budgets later; or search again for this one",
        )
    budgets = count_for(budgets, len(data.classes))
    check_budgets(space, budgets, config)
    if confirm is not None:
        require_tables(sources or {})
    space = space.with_classes(len(data.classes))
    with torch.random.fork_rng():
        run = Run.open(run_dir)
        state = SearchState(space, data, budgets, config)
        choice = Choice(state, data, on_event or _ignore)
        with _writing(run):
            checkpoint = state.restore_finished(run.search_folder / "checkpoint.pt", run.folder)
            found = [_Earlier.of(place) for place in (run, *run.networks)]
            Ranks().wait()  # every process has read the folder before the first one writes to it
            return _conclude(run, choice, budgets, found, checkpoint["elapsed_s"], sources, confirm, added=True)


def _open_run(folder: Path, space: Space, data: DataSet, budgets: Sequence[Budget], config: SearchConfig) -> Run:
    """The run in a folder, begun by the first rank where there is none."""
    ranks = Ranks()
    if ranks.first and not (folder / "run.json").exists():
        begin_run(folder, space, data, budgets, config)
    ranks.wait()
    return Run.open(folder)


def _writing(run: Run) -> AbstractContextManager[None]:
    """The run's lock, on the rank that writes."""
    return run.writing("search") if Ranks().first else nullcontext()


def check_budgets(space: Space, budgets: Sequence[Budget], config: SearchConfig) -> None:
    """Whether every budget can be kept and the method can serve them all; reads and writes nothing.

    Raises:
        BudgetError, InfeasibleBudgetError.
    """
    if not budgets:
        raise BudgetError("a search needs a budget", hint="for example --latency-ms 20")
    if config.method == LIGHTNAS and len(budgets) > 1:
        raise BudgetError(
            f"the published method searches once per budget; {len(budgets)} are given",
            hint="search for them one by one, or all at once with another --method",
        )
    if config.evidence == "gradients" and len(space.operators) < 2:
        raise ConfigError("evidence: gradients compare two operators of a layer, and this space has one")
    names = [budget.name for budget in budgets]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise BudgetError(f"budgets of the same name: {', '.join(twice)}")
    require_one_space([constraint for budget in budgets for constraint in budget.constraints])
    for budget in budgets:
        check_budget(space, budget.constraints, config.confidence)


def _conclude(
    run: Run,
    choice: Choice,
    budgets: Sequence[Budget],
    found: Sequence[_Earlier],
    elapsed_s: float,
    sources: Sources | None,
    confirm: Confirming | None,
    *,
    added: bool = False,
) -> list[SearchResult]:
    """Choose a network for every budget; the first rank writes them.

    Args:
        found: the networks that the run has found before.

    Raises:
        InfeasibleBudgetError: measured networks show that a budget cannot be kept. Those of the others are written.
    """
    contested = _contested(budgets, [each.question for each in found])
    results = choice.networks(contested, elapsed_s)
    impossible: list[InfeasibleBudgetError] = []
    if confirm is not None:
        results, impossible = confirm_choice(run, choice, results, contested, elapsed_s, sources or {}, confirm)
    scores = _scores_of_rivals(choice, budgets, found)
    ranks = Ranks()
    if ranks.first and results:
        for place, score in scores:
            add_score(place, score)
        write_results(run, results, sources=sources, below=added or len(budgets) > 1)
    ranks.wait()
    if impossible:
        raise InfeasibleBudgetError(
            "; ".join(map(str, impossible)),
            hint=f"{len(results)} of {len(budgets)} budgets have a network, see {run.folder / 'front.json'}; {impossible[0].hint}"
            if results
            else impossible[0].hint,
        )
    return results


def _contested(budgets: Sequence[Budget], found: Sequence[str]) -> list[bool]:
    """Of every budget, whether networks of several precisions answer its question."""
    questions = [*(budget.question for budget in budgets), *found]
    return [questions.count(budget.question) > 1 for budget in budgets]


@dataclass(frozen=True)
class _Earlier:
    """A run with a network, or without one yet, as it was before this command."""

    place: Run
    question: str
    unscored: FoundNetwork | None  # its network, where it has one that was not compared on held-out images

    @classmethod
    def of(cls, place: Run) -> _Earlier:
        has_network = (place.folder / "architecture.json").exists()
        return cls(place, run_question(place), place.found if has_network and not is_scored(place) else None)


def _scores_of_rivals(
    choice: Choice, budgets: Sequence[Budget], found: Sequence[_Earlier]
) -> list[tuple[Run, Candidate]]:
    """Of earlier networks in other precisions that answer the question of a new budget and needed no comparison until now."""
    asked = {budget.question for budget in budgets}
    scores = []
    for each in found:
        if each.unscored is not None and each.unscored.choice is not None and each.question in asked:
            architecture = each.place.architecture
            arithmetic = arithmetic_of_board(each.place.record.fingerprint)
            scores.append((each.place, choice.scored(architecture, each.unscored.choice.budget, arithmetic)))
    return scores


def _ignore(event: Event) -> None:
    """Where nobody listens."""
