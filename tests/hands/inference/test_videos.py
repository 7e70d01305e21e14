import numpy as np
import pytest

from cmkg.errors import InputError
from cmkg.hands.inference.videos import Video, VideoFile


def frames(count, size=(48, 64)):
    """Grey pictures, each lighter than the one before."""
    return [np.full((*size, 3), 20 * number, np.uint8) for number in range(count)]


def test_frames_come_back_in_their_order_with_their_times(tmp_path):
    path = tmp_path / "a video.mp4"
    with VideoFile(path, 10.0) as video:
        for frame in frames(6):
            video.write(frame)
    read = list(Video(path))
    assert len(read) == 6
    assert [round(float(frame.mean()) / 20) for frame, _ in read] == list(range(6))
    np.testing.assert_allclose([seconds for _, seconds in read], np.arange(6) / 10, atol=0.02)


def test_an_odd_row_and_column_are_left_out(tmp_path):
    with VideoFile(tmp_path / "v.mp4", 10.0) as video:
        for frame in frames(3, size=(49, 65)):
            video.write(frame)
    frame, _ = next(iter(Video(tmp_path / "v.mp4")))
    assert frame.shape == (48, 64, 3)


def test_a_video_that_is_left_early_has_what_was_written(tmp_path):
    def leave_early():
        with VideoFile(tmp_path / "v.mp4", 10.0) as video:
            video.write(frames(1)[0])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        leave_early()
    assert len(list(Video(tmp_path / "v.mp4"))) == 1


def test_without_frames_no_file_is_written(tmp_path):
    with VideoFile(tmp_path / "v.mp4", 10.0):
        pass
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", [b"", b"\0\1\2\3" * 50, b"http://host/a.mp4\n"])
def test_what_is_no_video_is_one_sentence(content, tmp_path):
    (tmp_path / "v.mp4").write_bytes(content)
    with pytest.raises(InputError, match=r"v\.mp4: expected a video"):
        list(Video(tmp_path / "v.mp4"))


def test_a_missing_file_is_one_sentence(tmp_path):
    with pytest.raises(InputError, match="no such file; expected a video"):
        Video(tmp_path / "none.mp4")
