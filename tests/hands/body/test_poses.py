import numpy as np

from cmkg.hands.body import poses
from cmkg.hands.body.mesh import LIMITS_DEG, anny_hand, pose_bones
from cmkg.hands.rendering import people


def test_poses_are_inside_human_limits_and_mostly_free_of_collisions():
    shape, free = np.zeros(len(anny_hand().shape_directions)), 0
    for i in range(200):
        angles = poses.sample_free_angles(people.stream("t", i), anny_hand(), shape)
        assert (angles >= LIMITS_DEG[:, 0]).all()
        assert (angles <= LIMITS_DEG[:, 1]).all()
        free += not poses.collides(pose_bones(anny_hand(), shape, angles).joints)
    assert free > 190


def test_gestures_are_inside_human_limits_and_shut_more_fingers():
    def draws(draw):
        return np.stack([draw(people.stream("g", i)) for i in range(300)])

    gestures, others = draws(poses.sample_gesture), draws(poses.sample_angles)
    assert (gestures >= LIMITS_DEG[:, 0]).all()
    assert (gestures <= LIMITS_DEG[:, 1]).all()

    # the middle joints of all four fingers
    def fists(angles):
        return (angles[:, 2:16:4] > 80).all(1).mean()

    assert fists(gestures) > 2 * fists(others)
