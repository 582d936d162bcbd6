"""A run of stage 1, from its configuration."""

from __future__ import annotations

from dataclasses import replace

import torch

from core.errors import ConfigurationError
from models.checkpoints.layouts.first_stage import load_first_stage
from models.networks.autoencoder import Autoencoder
from models.training.configs.autoencoder import AutoencoderRun
from models.training.data.folder import read_folder, split_held_out
from models.training.data.order import order_digest
from models.training.first_stage.features import feature_network, prepare_features
from models.training.first_stage.stage import FirstStageTraining
from models.training.first_stage.start import pass_through
from models.training.loop.processes import join
from models.training.loop.trainer import Report, Stop, begun, train


def run_autoencoder(config: AutoencoderRun, device: str, *, report: Report, stop: Stop) -> bool:
    """Train, or go on training, an autoencoder. Returns whether the run is done.

    Raises:
        ConfigurationError: naming what of configuration, data or machine is wrong.
        CheckpointError: what the run starts from doesn't read.
    """
    folders = split_held_out(read_folder(config.data.folder), config.data.held_out)
    order_digest(folders[0], config.data)  # which raises what is wrong with its columns before anything is computed
    network = _network(config)
    processes, place = join(device)
    with begun(config, processes):
        if not prepare_features(config, folders[0], processes, place, report, stop):
            return False
        stage = FirstStageTraining(config, network, folders, processes, place, feature_network(config, place))
        return train(config, stage, processes, report=report, stop=stop)


def _network(config: AutoencoderRun) -> Autoencoder:
    """Make the network with its first weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        network = Autoencoder(config.autoencoder.network())
    if config.start == "pass-through":
        pass_through(network)
    if config.start_from is not None:
        given = load_first_stage(config.start_from)
        if replace(given.config, force_upcast=network.config.force_upcast) != network.config:
            detail = f"{config.start_from}: is shaped {given.config}; the run's autoencoder is {network.config}"
            raise ConfigurationError(detail, field="start_from", value=str(config.start_from))
        network.load_state_dict(given.network("cpu").state_dict())
    return network.train()
