"""Tracks beside Gymnasium's."""

import numpy as np

from conformance.physics import run_tracks
from worldmodels.envs.carracing import track
from worldmodels.envs.carracing.state import MAX_TILES, allocate


def test_tracks_and_generator_are_gymnasiums():
    row = run_tracks(seeds=60, repeats=2)[0]
    assert row["differing"] == 0, row["first difference"]


def test_a_lane_is_filled_alone():
    """Same generator, same track in any lane; the other lanes keep what they had."""
    tracks, _ = allocate(3)
    track.generate(np.random.default_rng(1), tracks, 0)
    track.generate(np.random.default_rng(2), tracks, 2)
    tracks.visited[2, 5] = tracks.plain[2, 6] = True
    before = [array.copy() for array in tracks]
    track.generate(np.random.default_rng(1), tracks, 1)
    for name, array, old in zip(tracks._fields, tracks, before, strict=True):
        np.testing.assert_array_equal(array[[0, 2]], old[[0, 2]], err_msg=name)
        np.testing.assert_array_equal(array[1], array[0], err_msg=name)


def test_a_new_track_is_unvisited():
    tracks, _ = allocate(1)
    tracks.visited[:] = tracks.plain[:] = True
    track.generate(np.random.default_rng(3), tracks, 0)
    assert not tracks.visited.any() and not tracks.plain.any()


def test_tracks_close_and_fit():
    """2,000 tracks: neighbouring tiles share an edge all the way round, and there is room for them."""
    generator = np.random.default_rng(4)
    tracks, _ = allocate(1)
    counts = []
    for _ in range(2000):
        count = track.generate(generator, tracks, 0)
        counts.append(count)
        road = tracks.road[
            0, :count
        ]  # corners road1_l, road1_r, road2_r, road2_l; 2 is the end towards the tile before
        np.testing.assert_array_equal(road[:, [3, 2]], np.roll(road, 1, axis=0)[:, [0, 1]])
        assert np.abs(road).max() < 300 and (tracks.corners[0, :count] >= 3).all()
    assert 200 < min(counts) < 240 and 350 < max(counts) < MAX_TILES
