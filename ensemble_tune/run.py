"""`run`: both searches, export and final training in one go; each part goes on where it was interrupted."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from ensemble_tune.base_search import PROBE, STAGE, epoch_seconds, is_anytime, own_size, search_base
from ensemble_tune.ensemble.config import format_size, parse_size
from ensemble_tune.ensemble.manifest import Deploy, EnsembleManifest, Stacking
from ensemble_tune.errors import ConfigError
from ensemble_tune.export import export_best
from ensemble_tune.final_folder import FINAL
from ensemble_tune.final_training import FinalResult, train
from ensemble_tune.meta_search import checked_space, members_to_be, search_meta, slots
from ensemble_tune.settings import Settings
from ensemble_tune.storage import Location
from ensemble_tune.strategy import Strategy
from ensemble_tune.timetable import Timetable
from ensemble_tune.tune.ledger import LEDGER, Ledger
from ensemble_tune.tune.record import Status, rank
from ensemble_tune.tune.search import SearchResult
from ensemble_tune.tune.usable_cores import usable_cores

_TRIALS, _EPOCHS, _UNBOUNDED = 30, 30, 100_000


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """What a run found and trained."""

    manifest: EnsembleManifest
    final: FinalResult


def run_all(
    settings: Settings,
    *,
    base_space: str | Path = "base",
    base_trials: int | None = None,
    base_epochs: int | None = None,
    size: str | None = None,
    encoder_weights: str | None = None,
    meta_space: str | Path = "meta",
    meta_trials: int = 30,
    meta_epochs: int = 30,
    bases: str = "auto",
    deploy: Deploy | None = None,
    stacking: Stacking = "out-of-fold",
    strategy: Strategy | None = None,
    with_val: bool = False,
) -> RunResult:
    """Searches base models, then fusions, writes OUT/best.toml, and trains it into OUT/final.

    The options are those of `search_base`, `search_meta` and `train`; but hours in the strategy's budget bound the
    whole run, its other limits and all else in it the base search. base_trials, base_epochs: None is 30; where hours
    bound the run, as many trials as they hold, of as many epochs as leave time for several. Raises an EnsembleTuneError
    for whatever a user can mend.
    """
    # The second stage's mistakes, before the first has taken its hours.
    data = settings.stage_data()
    working = format_size(parse_size(size)) if size else own_size(data)
    strategy = strategy or Strategy()
    timetable = Timetable.of_run(settings.out, strategy.budget.hours)
    bounded = timetable.hours is not None
    trials = (_UNBOUNDED if bounded else _TRIALS) if base_trials is None else base_trials
    members = members_to_be(bases, trials)
    if meta_trials < 0 or meta_epochs < 1:
        raise ConfigError(
            f"--meta-trials must be at least 0 and --meta-epochs at least 1, but got {meta_trials} and {meta_epochs}"
        )
    checked_space(meta_space, data, size=working, epochs=meta_epochs, members=members)
    with settings.workers:
        epochs = _EPOCHS if base_epochs is None else base_epochs
        share = timetable.base
        cpus = settings.workers.resources.cpus
        if bounded and base_epochs is None:
            seconds = epoch_seconds(settings, space=base_space, size=size, encoder_weights=encoder_weights)
            before, there = _searched_before(settings.out), slots(settings)
            epochs = before or timetable.epochs(seconds, there)
            how = f"each is trained for {epochs}"
            if not timetable.will_hold_fits(epochs * seconds, members, data.folds, there):
                # A handful of trainings is all there is, and a mean wants each of them trained to its end.
                share = timetable.base_alone
                strategy = replace(strategy, scheduler=strategy.scheduler or "none")
                if base_trials is None:
                    fewest = 1 if _trains_on_cores(settings) else there
                    at_once, most = timetable.few(seconds, there, fewest=fewest, anytime=is_anytime(base_space))
                    epochs, cpus = before or most, _more_cores(cpus, there // at_once)
                    each = f"{cpus:g} core{'s' if cpus > 1 else ''}"
                    how = f"{at_once} at a time are trained, on {each} each, for {epochs} epochs at most"
            settings.say(f"an epoch of a base model takes {seconds:.1f} s, so that {how}")

        def search(hours: float | None) -> SearchResult:
            return search_base(
                settings,
                space=base_space,
                trials=trials,
                epochs=epochs,
                size=size,
                encoder_weights=encoder_weights,
                strategy=replace(strategy, budget=replace(strategy.budget, hours=hours)),
            )

        with settings.workers.sharing(cpus=cpus):
            found = search(share)
        ranked = rank([record for record in found.records if record.status is not Status.RUNNING], "max")
        if share != timetable.base_alone and not timetable.holds_fits(ranked, members, data.folds, slots(settings)):
            search(timetable.base_alone)
        search_meta(
            settings,
            space=meta_space,
            trials=meta_trials,
            epochs=meta_epochs,
            bases=bases,
            deploy=deploy,
            stacking=stacking,
            strategy=Strategy(keep=strategy.keep),
            timetable=timetable,
        )
        manifest = export_best(settings.out, settings.out / "best.toml", data=settings.data)
        final = train(manifest, replace(settings, out=settings.out / FINAL), with_val=with_val, run=settings.out)
    return RunResult(manifest=manifest, final=final)


def _trains_on_cores(settings: Settings) -> bool:
    """Whether base models are trained on this machine's processor, so that fewer at once are each trained faster."""
    probe = Ledger(settings.out / LEDGER).sessions(PROBE)
    on_gpu = settings.workers.resources.gpus != 0 and any(session.use.get("devices") for session in probe)
    return settings.workers.here and not on_gpu


def _more_cores(cpus: float, times: int) -> float:
    """So many times a trial's cores, as far as there are: earlier calls may have been on a larger machine."""
    return min(cpus * times, max(cpus, usable_cores()))


def _searched_before(out: Location) -> int | None:
    """The epochs of the base trials that are there; None where none is."""
    if not Ledger.exists(out / LEDGER):
        return None
    epochs = [int(record.params["epochs"]) for record in Ledger(out / LEDGER).trials(STAGE)]
    return epochs[0] if epochs else None
