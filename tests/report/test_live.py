"""The live page as a server gives it and as a browser shows it while the run goes on."""

import contextlib
import html
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_report import browser

from reptile_scaling.config import make_config
from reptile_scaling.errors import InputError
from reptile_scaling.lab.plan import plan_sweep
from reptile_scaling.lab.sweep import run_sweep
from reptile_scaling.report import write_report
from reptile_scaling.report.live import LivePage, live_routes
from reptile_scaling.report.server import Page, PageServer, Routes
from reptile_scaling.runs.directory import RunDirectory
from reptile_scaling.runs.grid import Cell
from reptile_scaling.runs.records import CellStatus, EvalRow, Worker

N_STEPS = 9


@pytest.fixture(scope="module")
def drawn(toy_settings, tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """N = 1 is done and on the page, N = 4 at work."""
    run = RunDirectory(tmp_path_factory.mktemp("live") / "run")
    settings = {**toy_settings, "n_tasks_list": [1, 4], "num_meta_steps": N_STEPS, "eval_interval": 3}
    run_sweep(plan_sweep(make_config(settings), run), run)
    for seed in (0, 1):
        (run.cell(Cell(4, seed)).path / "final_result.json").unlink()
        advance(run, seed, 3)
    write_report(run, is_running=True)
    return run


@pytest.fixture
def going_on(drawn: RunDirectory, tmp_path: Path) -> RunDirectory:
    run = RunDirectory(tmp_path / "run")
    shutil.copytree(drawn.path, run.path)
    run.write_worker(Worker("cpu", "cpu", 1, 1e9, "memory"))
    return run


def advance(run: RunDirectory, seed: int, step: int) -> None:
    cell = run.cell(Cell(4, seed))
    (cell.path / "SHA256SUMS").unlink(missing_ok=True)
    cell.write_status(CellStatus("running", step, N_STEPS, "cpu", 1.0, 1.0 + 0.01 * step, 0.5, 2.0, float(step)))
    cell.write_eval_stats([EvalRow(i, 1.0 + 0.01 * i, 0.5, 0.3) for i in range(step + 1)])


@contextlib.contextmanager
def served(routes: Routes) -> Iterator[PageServer]:
    with PageServer(routes, "127.0.0.1", 0) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def ask(server: PageServer, address: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], str]:
    connection = http.client.HTTPConnection(server.host, server.port, timeout=30)
    with contextlib.closing(connection):
        connection.request(method, address, headers=headers)
        answer = connection.getresponse()
        return answer.status, dict(answer.headers), answer.read().decode()


def files_of(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {str(f): (f.stat().st_mtime_ns, f.read_bytes()) for f in sorted(folder.rglob("*")) if f.is_file()}


def test_page_says_where_the_run_stands_and_leads_to_the_report_and_nothing_is_written(going_on) -> None:
    before = files_of(going_on.path)
    with served(live_routes(going_on)) as server:
        status, headers, page = ask(server, "/")
        assert status == 200 and headers["Content-Type"] == "text/html; charset=utf-8"
        assert ask(server, "/report.html")[2] == going_on.report_path.read_text()
        status, headers_alone, nothing = ask(server, "/", "HEAD")
        assert (status, nothing, headers_alone.keys()) == (200, "", headers.keys())
    # 2 cells of 9 steps and 2 of 3 are two thirds; 12 steps are left at 6 s / 6.
    assert "2 done, 2 running · ETA" in page and 'value="0.6667"' in page
    assert "cpu: process" in page and "baselines 2/2 done" in page
    assert page.count('<tr class="done">') == page.count('<tr class="running">') == 2
    assert 'aria-label="Validation loss of every cell over meta-steps"' in page
    assert files_of(going_on.path) == before


def test_nothing_else_of_the_disk_is_served_and_nothing_but_reading(going_on) -> None:
    (going_on.path / "split_other").mkdir()
    shutil.copy(going_on.report_path, going_on.path / "split_other" / "report.html")
    with served(live_routes(going_on)) as server:
        for address in (
            "/experiment.json", "/../run/report.html", "/%2e%2e/run/report.html", "/report.html/",
            "/./report.html", str(going_on.report_path), "/split_other/report.html", "/report.html%00", "report.html",
        ):  # fmt: skip
            status, headers, said = ask(server, address)
            assert (status, said) == (404, "Nothing is here, or not yet."), address
            assert headers["Content-Type"].startswith("text/plain")
        for method in ("POST", "PUT", "DELETE", "OPTIONS", "TRACE", "CONNECT"):
            assert ask(server, "/", method)[0] == 501, method


def test_every_answer_is_fenced_in(going_on) -> None:
    with served(live_routes(going_on)) as server:
        policies = []
        for address in ("/", "/", "/report.html", "/nothing"):
            _, headers, page = ask(server, address)
            policies.append(policy := headers["Content-Security-Policy"])
            assert policy.startswith("default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
            assert headers["X-Content-Type-Options"] == "nosniff" and headers["Cache-Control"] == "no-store"
            assert headers["Server"] == "reptile-scaling"
            scripts = re.findall(r"script-src '(?:nonce-)?([^']+)'", policy)
            assert scripts == (["unsafe-inline"] if "report" in address else re.findall(r'nonce="([^"]+)"', page))
        assert policies[3].endswith("frame-ancestors 'none'")


def test_a_page_elsewhere_cannot_read_it_under_a_name_of_its_own(going_on) -> None:
    with served(live_routes(going_on)) as server:
        port = server.port
        for host in ("localhost", f"localhost:{port}", f"127.0.0.1:{port}", "127.0.0.2", f"[::1]:{port}"):
            assert ask(server, "/report.html", Host=host)[0] == 200, host
        for host in ("example.org", f"rebound.example:{port}", "localhost.example.org", "", "[::1", "10.0.0.1"):
            assert ask(server, "/report.html", Host=host)[0] == 403, host


def test_before_the_first_level_there_are_cells_and_curves_and_no_law(going_on) -> None:
    going_on.report_path.unlink()
    for folder in going_on.path.glob("ntasks_1_*"):
        shutil.rmtree(folder)
    with served(live_routes(going_on)) as server:
        page = ask(server, "/")[2]
        assert "2 running, 2 pending" in page and "<svg" in page
        assert "It comes with the first curve: a cell done at every level, or all of one level." in page
        assert ask(server, "/report.html")[0] == 404
        going_on.cell(Cell(1, 0)).write_status(CellStatus("failed", reason="no <room>: take less"))
        time.sleep(1.1)
        assert "N = 1, seed 0 failed: no &lt;room&gt;: take less" in ask(server, "/")[2]
        for folder in going_on.path.glob("ntasks_*"):
            shutil.rmtree(folder)
        time.sleep(1.1)
        page = ask(server, "/")[2]
        assert "4 pending · ETA after the first steps" in page and "<svg" not in page


def test_a_file_that_cannot_be_read_is_said_and_the_server_goes_on(going_on) -> None:
    experiment = (going_on.path / "experiment.json").read_bytes()
    with served({"/": lambda: LivePage(going_on).read()}) as server:
        (going_on.path / "experiment.json").write_bytes(experiment[:-40])
        status, _, said = ask(server, "/")
        assert status == 503 and "experiment.json" in said
        (going_on.path / "experiment.json").write_bytes(experiment)
        assert ask(server, "/")[0] == 200


def test_several_class_splits_are_on_one_page_each_with_its_report(toy_settings, tmp_path, monkeypatch) -> None:
    splits = [{"train": 0.5, "validation": 0.25, "seed": seed} for seed in (0, 1)]
    settings = {key: value for key, value in toy_settings.items() if key != "class_split"}
    config = make_config({**settings, "class_splits": splits})
    run = RunDirectory(tmp_path / "run")
    run.begin(config, "data", {})
    first, second = config.split_configs
    run.split_run(first).begin(config.split_configs[first], "data", {})
    with served(live_routes(run)) as server:
        page = html.unescape(ask(server, "/")[2])
        assert f"<h2>Class split {first}</h2>" in page and f"Class splits not begun: {second}" in page
        name = run.split_run(first).path.name
        assert ask(server, f"/{name}/report.html")[0] == 404
        run.split_run(first).report_path.write_text("the first split's")
        assert ask(server, f"/{name}/report.html")[2] == "the first split's"


PROBE = """
addEventListener("load", () => {
  const table = document.querySelector(".wide"), seen = { steps: [] };
  scrollTo(0, 200);
  table.scrollLeft = 50;
  document.querySelector("[id='learning-'] .mark").focus({ preventScroll: true });
  seen.focused = document.activeElement.id;
  const look = () => {
    const step = document.querySelector("#cells- .running .bar").textContent[0];
    if (seen.steps.at(-1) !== step) seen.steps.push(step);
    const unseen = document.getElementById("unseen");
    if (!document.documentElement.dataset.probe && step === "7" && document.querySelector(".law svg")) {
      const mark = document.querySelector("#scaling-0");
      mark.dispatchEvent(new Event("mouseenter"));
      Object.assign(seen, {
        y: scrollY, x: table.scrollLeft, stillFocused: document.activeElement.id,
        law: document.querySelector(".law p").textContent, charts: document.querySelectorAll(".law figure").length,
        said: document.getElementById("tip").textContent, title: document.title,
        overflow: document.documentElement.scrollWidth - document.documentElement.clientWidth,
        fetched: performance.getEntriesByType("resource").map((e) => new URL(e.name).pathname),
      });
      document.documentElement.dataset.probe = "1";
    }
    if (!unseen.hidden) {
      seen.unseen = unseen.textContent;
      document.documentElement.dataset.probe = JSON.stringify(seen);
    }
  };
  setInterval(look, 100);
});
"""


def test_page_renews_itself_in_a_real_browser_and_stays_where_it_was_scrolled(going_on, tmp_path) -> None:
    routes, asked = live_routes(going_on), []

    def page() -> Page:
        asked.append(time.monotonic())
        step = min(7, 2 + len(asked))
        for seed in (0, 1):
            advance(going_on, seed, step)
        if len(asked) > 8:
            raise InputError("the folder has gone")
        made = LivePage(going_on).read()
        nonce = re.search(r'nonce="([^"]+)"', made.content.decode())
        probe = f'<script nonce="{nonce[1]}">{PROBE}</script></body>'.encode()
        return Page(made.content.replace(b"</body>", probe), made.policy)

    with served({**routes, "/": page}) as server:
        command = [
            browser(), "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}",
            "--window-size=500,700", "--enable-logging=stderr", "--virtual-time-budget=30000", "--dump-dom",
            server.address,
        ]  # fmt: skip
        shown = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert shown.returncode == 0, shown.stderr[-2000:]
    complaints = [line for line in shown.stderr.splitlines() if "CONSOLE" in line and "503" not in line]
    assert complaints == []
    found = re.search(r'data-probe="([^"]*)"', shown.stdout)
    assert found, shown.stdout[:500]
    seen = json.loads(html.unescape(found[1]))
    assert {"4", "7"} <= set(seen["steps"]) and seen["steps"] == sorted(seen["steps"])
    assert (seen["y"], seen["x"]) == (200, 50), "a page that jumps cannot be read"
    assert seen["stillFocused"] == seen["focused"] != ""
    assert seen["law"] and seen["law"] in html.unescape(going_on.report_path.read_text()) and seen["charts"] == 2
    assert seen["said"] != "" and seen["overflow"] <= 0
    assert "2 done, 2 running" in seen["title"]
    assert set(seen["fetched"]) == {"/", "/report.html"} and seen["fetched"].count("/report.html") == 1
    assert seen["unseen"].endswith("the folder has gone")


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-c", "from reptile_scaling.cli import main; main()", *map(str, arguments)]


def test_it_is_served_until_ctrl_c_which_ends_it_cleanly(going_on) -> None:
    with subprocess.Popen(
        command("status", going_on.path, "--serve", "--port", "0"),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),  # as of a shell's `&`
    ) as process:  # fmt: skip
        try:
            said = process.stdout.readline()
            port = int(re.match(r"http://127\.0\.0\.1:(\d+)/ shows", said)[1])
            with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
                connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
                assert connection.recv(15) == b"HTTP/1.0 200 OK"
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert (process.returncode, out, err) == (0, "No longer served.\n", "")


def test_what_cannot_be_served_is_one_sentence(going_on) -> None:
    with served({}) as server:
        port = server.port
        with pytest.raises(InputError, match=f"port {port} of 127.0.0.1 is in use: choose another --port, or --port 0"):
            PageServer({}, "127.0.0.1", port)
    for host in ("no.such.host.invalid", "192.0.2.1"):
        with pytest.raises(InputError, match=f"'{host}' is no address of this machine: leave --host out"):
            PageServer({}, host, 0)
