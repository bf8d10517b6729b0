"""A sweep cut at its system calls, or refused one; the scripts of scripts/reliability do the same for all calls."""

import errno
import random

import pytest
from staged.failing_disk import REFUSALS, failing
from staged.recorded_disk import Recording, recorded
from staged.tiny_sweep import largest_difference, sweep, tiny_config

import reptile_scaling.runs.lease as lease
from reptile_scaling.errors import StorageError

pytestmark = pytest.mark.endurance

TOLERANCE = 1e-6  # where a cohort goes on with other cells beside it, sums are taken in another order


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """The whole sweep and what it called."""
    folder = tmp_path_factory.mktemp("swept")
    config = tiny_config(folder)
    (folder / "whole").mkdir()
    with recorded(folder / "whole") as recording:
        return config, sweep(config, folder / "whole"), recording


def check_cut(swept, folder, n_calls: int, seed: int | None, monkeypatch) -> None:
    """Every file is an old or a new one; what was done stays; what is resumed equals the whole."""
    config, whole, recording = swept
    monkeypatch.setattr(lease, "SECONDS_WITHOUT_A_BEAT", 0.0)
    recording.after(n_calls, folder, seed)
    seen = recording.contents()
    for path in folder.rglob("*"):
        if path.is_file() and not path.name.startswith("."):
            assert path.read_bytes() in seen[str(path.relative_to(folder))], path
    done = {path: path.stat().st_mtime_ns for path in folder.rglob("final_result.json")}
    run = sweep(config, folder)
    assert {path: path.stat().st_mtime_ns for path in done} == done
    assert largest_difference(run, whole) <= TOLERANCE
    assert not list(folder.rglob("*.part"))


@pytest.mark.parametrize("place", [i / 6 for i in range(6)])
def test_cut_at_a_call_and_resumed_equals_the_whole(place: float, swept, tmp_path, monkeypatch) -> None:
    check_cut(swept, tmp_path / "run", int(place * len(swept[2].calls)), None, monkeypatch)


@pytest.mark.parametrize("seed", range(6))
def test_cut_with_unflushed_data_lost_and_resumed_equals_the_whole(seed: int, swept, tmp_path, monkeypatch) -> None:
    n_calls = random.Random(seed).randrange(len(swept[2].calls))
    check_cut(swept, tmp_path / "run", n_calls, seed, monkeypatch)


@pytest.mark.parametrize("seed", range(200))
def test_what_was_written_whole_is_kept_without_power(seed: int, swept, tmp_path) -> None:
    """Without resuming: a file that `write_bytes` has returned from is there, whatever was lost around it."""
    _, _, recording = swept
    rng = random.Random(seed)
    n_calls = rng.randrange(len(recording.calls))
    recording.after(n_calls, tmp_path / "run", seed)
    for place, call in enumerate(recording.calls[:n_calls]):
        folder = call.target.rpartition("/")[0]
        later = recording.calls[place + 1 : n_calls]
        # Flushed once its own folder is; the folder was flushed into its parents when it was made.
        if call.target.endswith("final_result.json") and any(c.name == "fsync" and c.path == folder for c in later):
            assert (tmp_path / "run" / call.target).read_bytes() == recording.contents()[call.target][-1]


def test_writer_that_flushes_nothing_would_be_caught(swept, tmp_path) -> None:
    """The disk of these tests can lose: of the same calls without a flush most seeds leave a file that never was."""
    _, _, recording = swept
    unflushed = Recording(recording.root, [call for call in recording.calls if call.name != "fsync"])
    seen, caught = recording.contents(), 0
    for seed in range(20):
        folder = tmp_path / str(seed)
        unflushed.after(len(unflushed.calls), folder, seed)
        files = [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")]
        caught += any(path.read_bytes() not in seen[str(path.relative_to(folder))] for path in files)
    assert caught > 5


@pytest.mark.parametrize("error", REFUSALS, ids=errno.errorcode.get)
def test_call_refused_once_is_one_sentence_and_costs_nothing(error: int, swept, tmp_path) -> None:
    config, whole, recording = swept
    place = random.Random(error).randrange(len(recording.calls))
    with failing(place, error) as disk:
        try:
            sweep(config, tmp_path / "run")
        except StorageError as refusal:
            assert "then run the same command again" in str(refusal) and "\n" not in str(refusal)
    assert len(disk.names) > place
    assert largest_difference(sweep(config, tmp_path / "run"), whole) <= TOLERANCE


@pytest.mark.parametrize("error", REFUSALS, ids=errno.errorcode.get)
def test_lock_refused_is_one_sentence_or_a_lease_instead(error: int, tmp_path) -> None:
    with failing(-1, 0) as counted, lease.held(tmp_path):
        place = counted.names.index("flock")
    with failing(place, error):
        if error in (errno.ENOLCK, errno.ENOSYS):
            with lease.held(tmp_path):
                assert (tmp_path / lease.LEASE).is_file()
            return
        with pytest.raises(StorageError, match="lock' cannot be locked"), lease.held(tmp_path):
            pass


def test_every_writer_of_a_run_goes_through_the_disk(swept) -> None:
    """What is in the folder is what the recording says: nobody wrote past it."""
    _, whole, recording = swept
    written = {str(p.relative_to(whole.path)) for p in whole.path.rglob("*") if p.is_file()} - {lease.LOCK}
    assert written <= recording.contents().keys()
