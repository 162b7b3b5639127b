"""SIGKILL at any moment: resumed, a training, an evaluation and a table's row end as if nothing had happened."""

from multiprocessing.context import ForkServerContext
from pathlib import Path

import pytest

from tests.endurance.killing import Reference, fork_server, moments, run

MOMENTS = {"training": moments(0, 20), "evaluation": moments(1, 20)}
QUICK = (2, 7, 12, 17)


@pytest.fixture(scope="module")
def context() -> ForkServerContext:
    """The fork server; it ends with the tests' process."""
    return fork_server()


@pytest.fixture(scope="module")
def references(context: ForkServerContext, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Reference]:
    """Undisturbed runs, made when first asked for."""

    class Made(dict[str, Reference]):
        def __missing__(self, job: str) -> Reference:
            folder = tmp_path_factory.mktemp(job)
            self[job] = Reference.of(context, job, folder / "run")
            return self[job]

    return Made()


def check(context: ForkServerContext, reference: Reference, folder: Path, numbers: list[int]) -> None:
    """Kill at each of the moments, go on, compare."""
    killed = 0
    for number in numbers:
        out, share = folder / str(number), MOMENTS[reference.job][number]
        killed += run(context, reference.job, out, kill_at=share * reference.seconds)[0]
        run(context, reference.job, out)
        assert reference.differences(out) == [], f"killed at {share:.0%} of {reference.seconds:.2f} s"
    assert (
        killed >= 3 * len(numbers) // 4
    )  # the last moments are close to the end, which a warm machine reaches sooner


@pytest.mark.parametrize("job", MOMENTS)
def test_killed_at_four_moments(
    job: str, context: ForkServerContext, references: dict[str, Reference], tmp_path: Path
) -> None:
    """Files, weights, metrics, records and journals are bit for bit the undisturbed run's, times apart."""
    check(context, references[job], tmp_path, list(QUICK))


@pytest.mark.slow
@pytest.mark.parametrize("job", MOMENTS)
def test_killed_at_sixteen_more(
    job: str, context: ForkServerContext, references: dict[str, Reference], tmp_path: Path
) -> None:
    """The same at the other moments."""
    check(context, references[job], tmp_path, [k for k in range(20) if k not in QUICK])
