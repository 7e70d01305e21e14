"""Several processes: torchrun --nproc-per-node 2 examples/loops/ddp.py [folder]

The distiller is what DistributedDataParallel wraps: its forward gives the losses.
"""

import gc
import sys

import torch
import torch.distributed as dist
from common import dataset, network, resume, save
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler

from cmkg import Distiller, MetaConfig, PriorLearner, fingerprint


def shared_loader():
    return DataLoader(dataset(), 8, sampler=DistributedSampler(dataset(), shuffle=False))


def distil(folder, epochs):
    """Goes on from the folder's checkpoint, if it has one; every rank ends with the same."""
    distiller = Distiller(
        network(3, 0), network(8, 1), next(iter(shared_loader())), attention_weight=0.0
    )
    parallel = DistributedDataParallel(distiller)
    learner = PriorLearner(parallel, MetaConfig(alpha=1e-2, beta=1.0))
    optimizer = torch.optim.Adam(parallel.parameters(), 1e-2)
    parts = {"distiller": distiller, "learner": learner, "optimizer": optimizer}
    for _ in range(resume(folder, **parts), epochs):
        for batch in shared_loader():
            losses = parallel(batch)
            learner.update(batch, losses)  # averages phi's gradients over the processes
            optimizer.zero_grad()
            sum(losses.values()).backward()
            optimizer.step()
    if dist.get_rank() == 0:
        save(folder, epochs, **parts)
    dist.barrier()
    return distiller.student, learner.prior


def main(folder=".", epochs=2):
    """Distils, then trains a target with the prior; prints what every rank must agree on."""
    student, prior = distil(folder, int(epochs))
    target = DistributedDataParallel(network(3, 0))
    optimizer = torch.optim.SGD(target.parameters(), 1e-2)
    prior.with_rms(1e-3).attach(optimizer, target)  # names are those inside the wrapper
    for x, _, y in shared_loader():
        optimizer.zero_grad()
        (target(x) - y).square().mean().backward()
        optimizer.step()
    found = f"rank {dist.get_rank()} {fingerprint(student)} {fingerprint(prior.phi)}"
    print(found, fingerprint(target), flush=True)


if __name__ == "__main__":
    dist.init_process_group("gloo")
    main(*sys.argv[1:])
    gc.collect()  # the wrappers, whose threads would else outlive their group and abort the process
    dist.barrier()
    dist.destroy_process_group()
