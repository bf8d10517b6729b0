"""The house: imports only go down, and the rooms that need no model import none."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "src" / "reptile_scaling"
# From the roof to the ground; rooms on one line may not import each other.
FLOORS = [
    {"cli"},
    {"api"},
    {"report", "bench", "lab"},
    {"analysis", "baselines", "use"},
    {"learning"},
    {"model", "tracking"},
    {"data", "runs", "laws"},
    {"config", "storage"},
    {"randomness", "interruption", "axes", "presets", "disk", "seals"},
    {"errors"},
]
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_rooms(path: Path) -> set[str]:
    modules = [
        node.module
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and node.module
    ]
    return {module.split(".")[1] for module in modules if module.startswith("reptile_scaling.")}


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_only_go_down(path: Path) -> None:
    if path == PACKAGE / "__init__.py":
        return
    room = room_of(path)
    upward = [other for other in imported_rooms(path) - {room} if FLOOR_OF[other] <= FLOOR_OF[room]]
    assert not upward, f"{path.name} in {room} imports upward: {upward}"


@pytest.mark.parametrize("module", ["laws", "data.readers", "data.class_split", "data.episodes", "runs"])
def test_room_imports_without_torch(module: str) -> None:
    place = module.replace(".", "/")
    files = sorted([*(PACKAGE / place).rglob("*.py"), *PACKAGE.glob(f"{place}.py")])
    names = [".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts) for file in files]
    check = f"import sys, {', '.join(names)}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check]).returncode == 0


def test_importing_the_package_loads_nothing_heavy() -> None:
    check = "import sys, reptile_scaling; sys.exit(bool({'torch', 'pandas', 'matplotlib'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", check]).returncode == 0


@pytest.mark.parametrize("room", ["report", "bench"])
def test_removing_a_leaf_room_breaks_the_roof_alone(room: str) -> None:
    importers = {room_of(path) for path in PACKAGE.rglob("*.py") if room in imported_rooms(path)}
    assert importers <= {room, "cli", "api"}


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("cli", {"torch", "pandas", "scipy", "matplotlib", "transformers"}),
        ("use.labeller", {"peft", "scipy.stats", "sklearn", "matplotlib"}),
        ("lab.worker", {"peft", "scipy.stats", "sklearn", "matplotlib"}),
    ],
)
def test_a_command_does_not_wait_for_what_it_does_not_use(module: str, heavy: set[str]) -> None:
    check = f"import sys, reptile_scaling.{module}; print(*({heavy!r} & sys.modules.keys()))"
    said = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert said.stdout.split() == []
