"""The workers that Tune has for trials: which it keeps idle, and which are on their way. Only this file looks into it.

No public setting says how many idle workers Tune keeps, nor does a public method say whether one is being started.
Where Tune's parts have other names than in the tested version, stages are as right, and start more slowly.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import ray
from ray.tune.experiment import Trial as TuneTrial

if TYPE_CHECKING:
    from ray.tune.execution.tune_controller import TuneController


@contextmanager
def none_kept(tune_controller: TuneController) -> Iterator[None]:
    """Within it Tune keeps no worker of a trial that it stops: it would give those that were killed to others."""
    # A scheduler sees a wrapper, which passes on what is read, not what is written.
    controller: Any = getattr(tune_controller.stop_trial, "__self__", tune_controller)
    reuses = getattr(controller, "_reuse_actors", True)
    controller._reuse_actors = False
    try:
        yield
    finally:
        controller._reuse_actors = reuses


class TuneWorkers:
    """Tells Tune which idle workers to keep."""

    def __init__(self, own_ray: bool = False) -> None:
        """own_ray: whether Ray was started here, so that its workers have this process's environment."""
        self._own_ray = own_ray
        self._kept: tuple[Any, int] = (None, 0)
        """How many idle workers of a share Tune was told to keep."""
        self._takes_over: dict[str, Any] = {}
        """The request to Ray of trials that are about to take over a worker that Tune was told to keep, by name."""
        self._idle: Counter[Any] = Counter()
        """How many workers of each request stay for the next stage."""

    def keep(self, tune_controller: TuneController, like: TuneTrial, count: int) -> None:
        """Keeps so many idle workers that have a trial's share: Tune itself keeps as many as trials wait, and so at the
        end of a stage all but one would go."""
        if self._own_ray:
            self._use_prestarted(tune_controller, like)
        cache: Any = getattr(tune_controller, "_actor_cache", None)
        if count == self._kept[1] or not hasattr(cache, "increase_max") or not hasattr(cache, "decrease_max"):
            return
        factory, kept = self._kept
        if kept:
            cache.decrease_max(factory, by=kept)
        if count:
            cache.increase_max(like.placement_group_factory, by=count)
        self._kept = (like.placement_group_factory, count)

    def _use_prestarted(self, tune_controller: TuneController, like: TuneTrial) -> None:
        """Has trials run in the workers that Ray starts before it is asked for any. Tune gives the class of its own an
        environment, and those have another one for Ray, although they have inherited the same."""
        classes: Any = getattr(getattr(tune_controller, "_class_cache", None), "_cache", None)
        trainable: Any = like.get_trainable_cls()  # type: ignore[no-untyped-call]
        if isinstance(classes, dict) and trainable is not None and trainable not in classes:
            classes[trainable] = ray.remote(trainable)

    def hand_over(self, tune_controller: TuneController, trial: TuneTrial, follower: str) -> None:
        """Keeps the worker of a trial that ends for a follower, which Tune does not know of yet, by its name to be."""
        cache: Any = getattr(tune_controller, "_actor_cache", None)
        if hasattr(cache, "increase_max"):
            cache.increase_max(trial.placement_group_factory)
            self._takes_over[follower] = trial.placement_group_factory

    def handed_over(self, tune_controller: TuneController, coming: Container[str]) -> None:
        """Keeps no more workers for followers that are not `coming` any more: Tune knows of them by now, or they do not
        come."""
        cache: Any = getattr(tune_controller, "_actor_cache", None)
        for name in [name for name in self._takes_over if name not in coming]:
            cache.decrease_max(self._takes_over.pop(name))

    def stay(self, tune_controller: TuneController, trial: TuneTrial) -> None:
        """Keeps the worker of a trial that ends for one of the next stage that makes the same request."""
        cache: Any = getattr(tune_controller, "_actor_cache", None)
        if hasattr(cache, "increase_max"):
            cache.increase_max(trial.placement_group_factory)
            self._idle[trial.placement_group_factory] += 1

    def make_way(self, tune_controller: TuneController, waiting: Iterable[TuneTrial]) -> None:
        """Ends those that stayed, once a trial waits for another place than theirs: they may hold what it needs."""
        cache: Any = getattr(tune_controller, "_actor_cache", None)
        if self._idle and not all(cache.has_cached_object(trial.placement_group_factory) for trial in waiting):
            for request, count in self._idle.items():
                cache.decrease_max(request, by=count)
            self._idle.clear()

    @staticmethod
    def is_starting(tune_controller: TuneController, trial: TuneTrial) -> bool:
        """Whether a trial that waits has a place, on which its worker is being started."""
        worker: Any = getattr(tune_controller, "_trial_to_actor", {}).get(trial)
        manager: Any = getattr(tune_controller, "_actor_manager", None)
        return worker is not None and hasattr(manager, "is_actor_started") and bool(manager.is_actor_started(worker))
