import os
import time

import jaxtyping
import pytest
import torch
from torch import nn


def made_once(factory, name, make):
    """A folder that the first worker to ask for it makes, and the others wait for."""
    home = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        home = home.parent
    folder, done = home / name, home / f"{name}.done"
    try:
        folder.mkdir()
    except FileExistsError:
        deadline = time.monotonic() + 300
        while not done.exists():
            assert time.monotonic() < deadline, f"the worker that makes {name} has failed"
            time.sleep(0.1)
        return folder
    make(folder)
    done.touch()
    return folder


@pytest.fixture(autouse=True)
def _threads():
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


@pytest.fixture
def unchecked():
    """Wrong kinds of arguments reach the package's own checks, as they do outside of the tests."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def small_net(channels=3, seed=0, dtype=torch.float64):
    """A network with BatchNorm and four named stages, 8 x 8 pictures -> (B, 6)."""
    torch.manual_seed(seed)

    def block(a, b):
        return nn.Sequential(nn.Conv2d(a, b, 3, padding=1), nn.BatchNorm2d(b), nn.Tanh())

    body = nn.Sequential(block(channels, 4), block(4, 4), nn.AvgPool2d(2), block(4, 5))
    return nn.Sequential(body, nn.Flatten(), nn.Linear(80, 6)).to(dtype)


LAYERS = ["0.0", "0.1", "0.3"]


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(3)

    def draw(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    return draw(5, 3, 8, 8), draw(5, 1, 8, 8), draw(5, 6)


@pytest.fixture(scope="session")
def made_sets(tmp_path_factory):
    """{name: folder} of made data in the layouts of RHD, STB, FreiHAND and a folder."""
    from cmkg.hands.synthesis.synthetic import make_dataset

    names = ("rhd", "stb", "freihand", "folder")

    def make(home):
        for name in names:
            make_dataset(name, home / name, 8)

    home = made_once(tmp_path_factory, "made", make)
    return {name: home / name for name in names}


@pytest.fixture
def prior_files(tmp_path):
    """The files of two learned priors of one network, with a record of their noise."""
    from cmkg.prior.prior import Prior

    net = small_net(dtype=torch.float32)
    for i in range(2):
        prior = Prior.constant(
            net, 0.0, facts={"source": f"source {i}", "alpha": 1e-3}
        ).track_noise()
        for _ in range(4):
            prior.learn_({n: torch.randn_like(t) + 1 + i for n, t in prior.phi.items()}, 0.1)
        prior.save(tmp_path / f"{i}.safetensors")
    return [str(tmp_path / f"{i}.safetensors") for i in range(2)]


@pytest.fixture(scope="session")
def whole(tmp_path_factory):
    """One `cmkg run` of everything, as small as it goes."""
    from cmkg.hands.experiments.demo import run
    from cmkg.hands.experiments.demo_settings import Experiment, Expert
    from cmkg.hands.network.posenet import NetConfig

    out = tmp_path_factory.mktemp("whole") / "run"
    run(
        Experiment(
            out=str(out),
            source_count=48,
            target_frames=12,
            labels=16,
            with_prior=True,
            wide_count=16,
            seeds=(0,),
            rows=("tuned-student", "tuned-depth", "recipe", "none", "l2", "prior"),
            net=NetConfig(
                backbone="resnet10",
                width=0.125,
                head="integral",
                stem_stride=2,
                heatmap_weight=1000.0,
                px=32,
            ),
            expert=Expert(
                batch=8,
                source_epochs=1,
                target_epochs=1,
                stops=(0, 1),
                wide_epochs=1,
                long_epochs=1,
                tries=(0.1, 10.0),
                precision="32-true",
            ),
        )
    )
    return out
