"""Copies of made datasets, to be changed."""

import pickle

from cmkg.hands.datasets import dexycb, folder, freihand, ho3d, interhand, rhd, stb

CACHES = (
    *(rhd.read_annotations, rhd._ids, stb.read_mat_labels, freihand.read_json_labels),
    *(folder.read_records_once, folder.numbers_in_split, dexycb.shown, dexycb.read_sequence_facts),
    *(dexycb.read_camera, ho3d.annotated, interhand.read_labels, interhand.hands_of),
)


def clear():
    """Forgets every label file that was read."""
    for cache in CACHES:
        cache.cache_clear()


def rewrite(path, change):
    """Changes RHD's annotations."""
    labels = pickle.loads(path.read_bytes())
    change(labels)
    path.write_bytes(pickle.dumps(labels, protocol=2))
    clear()
