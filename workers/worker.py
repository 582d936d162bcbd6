"""The worker process: loads its models, shows itself to RQ, and runs the loop until it is told to stop."""

from __future__ import annotations

import os
import socket
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TypeVar

import structlog
import torch
from obstore.exceptions import BaseError
from redis import Redis
from redis.typing import EncodableT, FieldT

from contract.card import ModelCard
from contract.redis_keys import (
    CARDS_KEY,
    CONTROLNETS_KEY,
    EMBEDDINGS_KEY,
    LORAS_KEY,
    processes_key,
    serving_key,
    serving_member,
)
from core.errors import CheckpointError
from core.listen import listen
from core.settings import Settings, check_models_dir
from core.storage import Store, check_creates, may_be_unmounted, open_store, told
from jobs.deployment import Mount, Witness, claim
from jobs.end import Retention
from jobs.layout import check_layout
from jobs.worker import BatchWorker
from models.checkpoints.card import text_fields
from models.checkpoints.layouts.taesd import read_tiny_decoder, tiny_decoder_of
from workers.heartbeat import Heartbeat
from workers.library.catalogue import (
    chosen_cards,
    find_cards,
    find_controlnets,
    find_embeddings,
    find_loras,
    write_missing_cards,
)
from workers.library.library import ModelLibrary, Offered
from workers.library.loading import choose_device, engine_of, open_library
from workers.loop import Loop
from workers.metrics.families import WorkerMetrics
from workers.metrics.gpu import device_kind, gpu_of
from workers.objects.storing import Storing
from workers.objects.sweep import Sweeper, Sweeping
from workers.queue.circuit_breaker import CircuitBreaker, connect
from workers.queue.process_identity import machine
from workers.queue.reaper import Reaper
from workers.queue.savepoints import Savepoints
from workers.signals import Signals

# A round is one UNet call or one chunk of pictures. On a GPU the longest take minutes (the first calls compile,
# pictures of 16 megapixels are decoded tile by tile); a CPU may need the better part of an hour for such pictures.
HANG_S_GPU, HANG_S_CPU = 600.0, 3600.0

T = TypeVar("T")
log = structlog.get_logger()


def worker_name(device: str) -> str:
    """Make a new one at each start: a name that died can't be taken again while Redis remembers it."""
    return f"{socket.gethostname()}-{device.replace(':', '')}-{uuid.uuid4().hex[:8]}"


def serve(settings: Settings, model_ids: Sequence[str], device: str, signals: Signals) -> None:
    """Work on the queues of `model_ids` (none: all) on `device` until SIGTERM or SIGINT.

    The first signal drains for up to LATENTD_DRAIN_S, a second hands everything back at once. Before it is ready, a
    worker ends at the first one and has claimed nothing.

    Raises:
        ConfigurationError: there is no such model or folder of models, the metrics port is taken, Redis is too old,
            refuses us or holds jobs of another release; the storage isn't that of the others, or can't create.
        CheckpointError: one doesn't load.
    """
    began, device = time.monotonic(), choose_device(device)
    check_models_dir(settings)
    # Taken before models are loaded, so that a port that isn't free is known at once.
    port = settings.metrics_port
    listening = None if port is None else listen(settings.metrics_host, port, "LATENTD_METRICS_PORT")
    write_missing_cards(settings.models_dir)
    _keep_compiled(settings)
    library = open_library(settings, model_ids, device)
    engine = engine_of(settings, library)
    cards, addons = _served_cards(settings, library), _addons(settings.models_dir)
    redis = connect(settings.redis)
    library.loaded = partial(_publish_again, settings, library, redis, cards)
    _patiently(lambda: check_layout(redis))
    store = open_store(settings.storage)
    _meet(settings, redis, store)
    worker = _patiently(lambda: BatchWorker(worker_name(device), list(cards), redis))
    metrics, witness = _metrics(settings, library, cards, device), Witness(settings, connect(settings.redis), store)
    hashes, retention = {model: card.hash for model, card in cards.items()}, Retention.of(settings)
    check_store = _check_of(settings, store)
    savepoints = Savepoints(connect(settings.redis), store, hashes, check_store)
    storing = Storing(store, hashes, savepoints, metrics.storage_errors.inc, check_store)
    loop = Loop(worker, engine, library, storing, savepoints, metrics, retention=retention)
    metrics_port = None if listening is None else metrics.serve(listening)
    show = partial(_show, cards, addons)
    heart, sweeping = _heart(settings, worker, loop, library, device, show), _sweeping(settings, store)
    try:
        _patiently(lambda: _arrive(worker, redis, show))
        signals.drain(loop, settings.drain_s)
        heart.start()
        sweeping.start()
        witness.start()
        facts = {"worker": worker.name, "models": list(cards), "resident": list(library.resident), "device": device}
        log.info("ready", **facts, metrics_port=metrics_port, seconds=time.monotonic() - began)
        loop.run()
    finally:
        witness.stop()
        sweeping.stop()
        heart.stop()
        library.close()
        storing.close()
        savepoints.close()
        _leave(worker, redis, list(cards), device_kind(torch.device(device)), keeps_jobs=bool(loop.runs()))


def _keep_compiled(settings: Settings) -> None:
    """Let inductor keep what it fused, so that a restarted worker needn't make it again.

    Triton loads libraries from its cache, which is else below the home: in a container no place to load from.
    """
    fused = settings.data_dir.resolve() / "fused"
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(fused))
    os.environ.setdefault("TRITON_CACHE_DIR", str(fused / "triton"))


def _meet(settings: Settings, redis: Redis, store: Store) -> None:
    """Raises ConfigurationError for a storage that can't create or isn't the others'; one that is away isn't asked."""
    try:
        check_creates(store)
        _patiently(lambda: claim(settings, redis, store))
    except (BaseError, OSError) as error:
        log.warning("storage is away", error=told(error))


def _metrics(settings: Settings, library: ModelLibrary, cards: Mapping[str, ModelCard], device: str) -> WorkerMetrics:
    """Begin the series of what this worker serves and has in memory."""
    metrics = WorkerMetrics(gpu_of(device, next(iter(library.offered.values())).dtype))
    metrics.serves({model: card.tasks for model, card in cards.items()}, settings.max_rows)
    for model, network in library.resident.items():
        metrics.came(model, network)
    metrics.paths.models = library.resident
    return metrics


def _heart(
    settings: Settings,
    worker: BatchWorker,
    loop: Loop,
    library: ModelLibrary,
    device: str,
    show: Callable[[Redis], None],
) -> Heartbeat:
    """Make what keeps the loop's jobs alive, on a connection of its own."""
    redis = connect(settings.redis)
    return Heartbeat(
        worker,
        redis,
        Reaper(redis, loop.claims.queues.values(), Retention.of(settings), worker.name),
        models=library.names,
        device_kind=device_kind(torch.device(device)),
        runs=loop.runs,
        times=loop.times.take,
        round_s=loop.round_s,
        hang_s=settings.hang_s or (HANG_S_CPU if device == "cpu" else HANG_S_GPU),
        show=show,
    )


def _check_of(settings: Settings, store: Store) -> Callable[[], None]:
    """Make what raises for a mount point without its mount, on a connection of its own."""
    if not may_be_unmounted(settings.storage_url, store):
        return lambda: None
    return Mount(store, connect(settings.redis)).check


def _sweeping(settings: Settings, store: Store) -> Sweeping:
    """Make what deletes what was kept long enough, on a connection of its own."""
    redis, retention = connect(settings.redis), Retention.of(settings)
    sweeper = Sweeper(redis, store, retention, mounted=may_be_unmounted(settings.storage_url, store))
    return Sweeping(redis, sweeper, retention)


def _patiently(work: Callable[[], T]) -> T:
    """Do `work` as soon as Redis is there, and return what it returns."""
    breaker = CircuitBreaker()
    while True:
        done = breaker.attempt(lambda: [work()])
        if done:
            return done[0]
        time.sleep(0.05)


def _served_cards(settings: Settings, library: ModelLibrary) -> dict[str, ModelCard]:
    """Cards of the offered models, with what older cards don't say and the networks do."""
    cards = chosen_cards(settings, library.names())
    return {model: _served(card, library.offered[model]) for model, card in cards.items()}


def _served(card: ModelCard, offered: Offered) -> ModelCard:
    update = {
        "context_width": offered.config.unet.context_dim,
        "preview_decoder": _preview_decoder(offered),
        "fields": tuple(dict.fromkeys((*card.fields, *text_fields(offered.config)))),
    }
    return card.model_copy(update=update)


def _publish_again(
    settings: Settings, library: ModelLibrary, redis: Redis, cards: dict[str, ModelCard], model: str
) -> None:
    """Show the gateway the card of a model that was loaded, which may have noted there what no file tells."""
    if (found := find_cards(settings.models_dir).get(model)) is not None:
        card = cards[model] = _served(found[0], library.offered[model])
        CircuitBreaker().attempt(lambda: redis.hset(CARDS_KEY, model, card.to_json()))


def _preview_decoder(offered: Offered) -> str | None:
    """Name the file that makes a model's previews, if it can."""
    with suppress(CheckpointError):  # loading tells why
        place = tiny_decoder_of(offered.folder, offered.config)
        if place is not None:
            read_tiny_decoder(place, offered.config.first_stage.embed_dim, data=False)
            return f"{place.parent.name}/{place.name}"
    return None


def _addons(models_dir: Path) -> dict[str, dict[FieldT, EncodableT]]:
    """Cards of what may be added to the models as JSON by id, by the keys that they are published under."""
    loras, embeddings = find_loras(models_dir), find_embeddings(models_dir)
    return {
        LORAS_KEY: {name: found.card.card.to_json() for name, found in loras.items()},
        EMBEDDINGS_KEY: {name: found.card.card.to_json() for name, found in embeddings.items()},
        CONTROLNETS_KEY: {name: found.card.card.to_json() for name, found in find_controlnets(models_dir).items()},
    }


def _arrive(worker: BatchWorker, redis: Redis, show: Callable[[Redis], None]) -> None:
    """Show the worker to RQ, and what it has to the gateway."""
    worker.arrive()
    show(redis)


def _show(cards: Mapping[str, ModelCard], addons: Mapping[str, dict[FieldT, EncodableT]], redis: Redis) -> None:
    """Show a worker's models and what may be added to them to the gateway."""
    redis.hset(CARDS_KEY, mapping={model: card.to_json() for model, card in cards.items()})
    for key, published in addons.items():
        if published:
            redis.hset(key, mapping=published)


def _leave(worker: BatchWorker, redis: Redis, models: Sequence[str], kind: str, *, keeps_jobs: bool) -> None:
    """Tell RQ and the gateway that this worker is gone; if Redis is away, they learn it by the lapse.

    What neighbours find the jobs of a dead process by stays where there are some.
    """

    def leave() -> None:
        if not keeps_jobs:
            worker.leave()
            redis.hdel(processes_key(machine()), worker.name)
        for model in models:
            redis.zrem(serving_key(model), serving_member(worker.name, kind))

    CircuitBreaker().attempt(leave)
    log.info("stopped", worker=worker.name)
