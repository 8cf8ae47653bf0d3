#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What a run leaves in its directory, dry runs, finished runs and starting over."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

from harness import (
    BAD_INPUT,
    CHECK_FAILED,
    MPIEXEC,
    PROGRAM,
    Outcome,
    ProgramTest,
    enter_venv,
    environment,
    file_digests,
    main,
    merged,
    run,
)

if __name__ == "__main__":
    enter_venv()

import models  # noqa: E402

SUMMARY_KEYS = {
    "format_version",
    "perplexity",
    "sparsity",
    "seconds",
    "bytes_on_wire",
    "peak_rss_bytes",
    "peak_merge_bytes",
    "clients",
    "version",
}


class RunDirectory(ProgramTest):
    model: Path
    run_dir: Path
    config: dict[str, Any]
    outcome: Outcome
    summary: dict[str, Any]

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.model = models.copy_model(models.LLAMA, cls.folder / "input")
        clients = models.clients_of(cls.folder / "tokens", cls.model, 3)
        test = models.random_tokens(cls.folder / "test.h5", cls.model, 9, 200)
        cls.run_dir = cls.folder / "run"
        cls.config = merged(
            models.run_config(cls.model, cls.run_dir, clients),
            {
                "report": {"standalone": True},
                "evaluation": [{"name": "unseen", "tokens": str(test), "sequence_length": 40}],
            },
        )
        cls.outcome = cls().prune(cls.config, ranks=2)
        cls.summary = json.loads((cls.run_dir / "summary.json").read_text())

    def test_it_holds_the_promised_files(self) -> None:
        for name in (
            "run.h5",
            "metrics.jsonl",
            "config.toml",
            "summary.json",
            "manifest.json",
            "model/config.json",
            "model/model.safetensors",
            "clients/client-2.h5",
        ):
            self.assertTrue((self.run_dir / name).is_file(), name)

    def test_summary_has_every_key(self) -> None:
        self.assertLessEqual(SUMMARY_KEYS, self.summary.keys())
        self.assertEqual(self.summary["format_version"], 1)
        self.assertRegex(self.summary["version"], r"^\d+\.\d+\.\d+")
        self.assertEqual(self.summary["clients"], ["client-0", "client-1", "client-2"])
        self.assertAlmostEqual(self.summary["sparsity"], 0.5, places=4)
        self.assertGreater(self.summary["bytes_on_wire"], 0)
        ranks = self.summary["peak_rss_bytes"]
        self.assertEqual(len(ranks), 2)
        self.assertTrue(all(value > 1 << 20 for value in ranks), ranks)
        shares = self.summary["time_shares"]
        self.assertEqual(len(shares), 2)
        for share in shares:
            self.assertEqual(share.keys(), {"compute", "wire", "waiting", "disk", "other"})
            self.assertAlmostEqual(sum(share.values()), 1, places=6)
        self.assertLessEqual({"total", "pruning", "evaluation"}, self.summary["seconds"].keys())
        self.assertTrue(all(value >= 0 for value in self.summary["seconds"].values()))

    def test_summary_has_the_table_of_perplexities(self) -> None:
        table = self.summary["perplexity"]
        self.assertEqual(table.keys(), {"unseen"})
        self.assertEqual(table["unseen"].keys(), {"dense", "merged", "standalone"})
        self.assertEqual(table["unseen"]["standalone"].keys(), {"client-0", "client-1", "client-2"})

    def test_printed_table_shows_what_the_summary_says(self) -> None:
        text = self.outcome.stdout
        for label, value in {
            "dense": self.summary["perplexity"]["unseen"]["dense"],
            "client-1": self.summary["perplexity"]["unseen"]["standalone"]["client-1"],
        }.items():
            self.assertRegex(text, rf"(?m)^.*{label}.*{int(value)}")
        for word in ("unseen", "federated", "sparsity"):
            self.assertRegex(text, re.compile(word, re.I))

    def test_metrics_are_json_lines_that_tell_the_run(self) -> None:
        lines = (self.run_dir / "metrics.jsonl").read_text().splitlines()
        events = [json.loads(line) for line in lines]
        self.assertEqual((events[0]["event"], events[-1]["event"]), ("run_started", "run_finished"))
        blocks = [event for event in events if event["event"] == "block"]
        self.assertEqual(sorted(event["block"] for event in blocks), [0, 1])
        self.assertTrue(all(abs(event["sparsity"] - 0.5) < 1e-3 for event in blocks), blocks)
        work = {(event["client"], event["block"]) for event in events if event["event"] == "client_block"}
        self.assertEqual(work, {(f"client-{client}", block) for client in range(3) for block in range(2)})
        self.assertTrue(all(event["seconds"] == event["end"] - event["begin"] for event in events if "begin" in event))
        self.assertGreater(sum(event["bytes"] for event in blocks), 0, "rank 1's clients sent theirs")
        # An event has the time when it happened: a rank tells of block 0 before it begins block 1.
        merged_at = {event["block"]: event["monotonic"] for event in blocks}
        told_at = [e["monotonic"] for e in events if e["event"] == "client_block" and (e["rank"], e["block"]) == (1, 0)]
        self.assertLessEqual(max(told_at), merged_at[1])

    def test_owners_write_blocks_each(self) -> None:
        place = self.folder / "owners"
        owners = {"run": {"dir": str(place)}, "federation": {"topology": "owners"}, "evaluation": []}
        self.prune(merged(merged(self.config, owners), {"report": {"standalone": False}}), ranks=2)
        lines = map(json.loads, (place / "metrics.jsonl").read_text().splitlines())
        blocks = [event for event in lines if event["event"] == "block"]
        self.assertEqual(sorted((event["block"], event["rank"]) for event in blocks), [(0, 0), (1, 1)])
        ranks = json.loads((place / "summary.json").read_text())["rank_seconds"]
        self.assertTrue(all(seconds["writing_blocks"] > 0 for seconds in ranks), ranks)
        self.assertEqual(file_digests(place / "model"), file_digests(self.run_dir / "model"))
        self.done("inspect", place)

    def test_stand_alone_clients_are_counted(self) -> None:
        """Nothing is merged: sparsities are those of the clients' own models, with the blocks that stay dense."""
        place = self.folder / "none"
        clients = [{**client, "resources": 0.5 if index == 0 else 1} for index, client in enumerate(self.config["client"])]
        alone = {"aggregation": "none", "layer_sampling": "resources"}
        self.prune(merged(self.config, {"run": {"dir": str(place)}, "federation": alone, "client": clients}), ranks=2)
        expected = {"client-0": 0.25, "client-1": 0.5, "client-2": 0.5}
        summary = json.loads((place / "summary.json").read_text())
        found = self.done("inspect", place, "--json").json()
        for counted in (summary, found):
            self.assertEqual(counted["client_sparsity"].keys(), expected.keys())
            for client, sparsity in expected.items():
                self.assertAlmostEqual(counted["client_sparsity"][client], sparsity, places=3)
            self.assertAlmostEqual(counted["sparsity"], 1.25 / 3, places=3)
        of_block = len([matrix for matrix in found["matrices"] if matrix["client"] == "client-0"])
        self.assertEqual(len(found["matrices"]), 5 * of_block)
        events = map(json.loads, (place / "metrics.jsonl").read_text().splitlines())
        self.assertGreater(sum(event["sparsity"] for event in events if event["event"] == "block"), 0.5)
        block = next((place / "clients" / "client-1").glob("*.h5"))
        block.write_bytes(block.read_bytes()[:-1])
        self.refused_by_recount(place, block)

    def refused_by_recount(self, place: Path, file: Path) -> None:
        outcome = run("inspect", place, "--json")
        self.assertEqual(outcome.status, CHECK_FAILED, str(outcome))
        self.assertRegex(json.loads(outcome.stdout)["problems"][0], re.escape(file.name))

    def test_ranks_with_folders_of_their_own(self) -> None:
        """Rank 1 sees another file system where the run directory is: the root writes all, to the same bits."""
        own_mounts = ["unshare", "-m"]
        if os.geteuid() != 0 or subprocess.run([*own_mounts, "true"], check=False).returncode != 0:
            self.skipTest("mounting is not possible here")
        place = self.folder / "apart"
        place.mkdir()
        owners = {"run": {"dir": str(place)}, "federation": {"topology": "owners"}}
        config = self.write_config(merged(self.config, owners), "apart.toml")
        mount = f'[ "$OMPI_COMM_WORLD_RANK" = 0 ] || mount -t tmpfs none "{place}" || exit 99; exec "$@"'
        rank = [*own_mounts, "sh", "-c", mount, "sh", PROGRAM, "prune", str(config)]
        done = subprocess.run(
            [MPIEXEC, "-np", "2", *rank], check=False, capture_output=True, text=True, env=environment({})
        )
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("not every rank sees the run directory of rank 0", done.stderr)
        self.assertEqual(file_digests(place / "model"), file_digests(self.run_dir / "model"))
        ranks = json.loads((place / "summary.json").read_text())["rank_seconds"]
        self.assertEqual([seconds["writing_blocks"] > 0 for seconds in ranks], [True, False])
        self.done("inspect", place)

    def test_one_line_per_block_in_a_log(self) -> None:
        lines = [
            line
            for line in self.outcome.stderr.splitlines()
            if re.search(r"\bblock \d/2 .*sparsity 0\.5", line)
        ]
        self.assertGreaterEqual(len(lines), 2, str(self.outcome))

    def test_resolved_configuration_makes_the_same_run_again(self) -> None:
        again = self.folder / "again"
        self.done(
            "prune", self.run_dir / "config.toml", "--set", f"run.dir={again}", "--set", "run.threads=2"
        )
        self.assertEqual(file_digests(again / "model"), file_digests(self.run_dir / "model"))

    def test_relative_paths_are_relative_to_the_configuration(self) -> None:
        place = self.folder / "elsewhere"
        place.mkdir()
        clients = [
            {**client, "tokens": os.path.relpath(client["tokens"], place)} for client in self.config["client"]
        ]
        config = merged(
            self.config,
            {
                "model": {"path": "../input"},
                "run": {"dir": "result"},
                "client": clients,
                "evaluation": [],
                "report": {"standalone": False},
            },
        )
        self.prune(config, name="elsewhere/config.toml")
        self.assertEqual(file_digests(place / "result" / "model"), file_digests(self.run_dir / "model"))

    def test_other_seed_other_windows_other_model(self) -> None:
        other = self.folder / "other-seed"
        self.prune(
            merged(
                self.config,
                {"run": {"dir": str(other), "seed": 8}, "evaluation": [], "report": {"standalone": False}},
            )
        )
        self.assertNotEqual(
            file_digests(other / "model")["model.safetensors"],
            file_digests(self.run_dir / "model")["model.safetensors"],
        )

    # ------------------------------------------------------------ finished runs

    def test_finished_run_is_left_alone_until_restart(self) -> None:
        place = self.folder / "finished"
        config = merged(
            self.config, {"run": {"dir": str(place)}, "evaluation": [], "report": {"standalone": False}}
        )
        self.prune(config)
        before = {path: path.stat().st_mtime_ns for path in place.rglob("*") if path.is_file()}
        outcome = self.prune(config, ranks=2)
        self.assertRegex(outcome.stderr, "finished.*--restart")
        self.assertEqual(
            {path: path.stat().st_mtime_ns for path in place.rglob("*") if path.is_file()}, before
        )
        digests = file_digests(place / "model")
        self.prune(config, "--restart", ranks=2)
        self.assertGreater((place / "summary.json").stat().st_mtime_ns, before[place / "summary.json"])
        self.assertEqual(file_digests(place / "model"), digests)

    def test_other_evaluations_of_a_finished_run_are_told_by_their_commands(self) -> None:
        again = self.done("prune", self.write_config(self.config, "same.toml"))
        self.assertNotIn("evaluations", again.stderr)
        outcome = self.done("prune", self.write_config(self.config, "same.toml"), "--set", "evaluation.unseen.samples=2")
        self.assertRegex(outcome.stderr, r"finished run; nothing to do")
        command = re.search(r"(?m)^  fedspallm (eval .*--samples 2)$", outcome.stderr)
        assert command is not None, str(outcome)
        self.assertRegex(self.done(*command[1].split()).stdout, r"\d")

    def test_restart_forgets_the_earlier_run(self) -> None:
        place = self.folder / "replaced"
        plain = {
            "run": {"dir": str(place), "keep_clients": True},
            "evaluation": [],
            "report": {"standalone": False},
        }
        self.prune(merged(self.config, {**plain, "federation": {"rounds": 2}}))
        self.assertEqual(len(list((place / "blocks").iterdir())), 4)
        self.prune(merged(self.config, plain), "--restart")
        self.assertEqual(
            sorted(path.name for path in (place / "blocks").iterdir()), ["r01-b0000.h5", "r01-b0001.h5"]
        )
        self.assertEqual(
            sorted(path.name for path in (place / "clients" / "client-1").glob("*.h5")),
            ["r01-b0000.h5", "r01-b0001.h5"],
        )
        self.done("inspect", place)

    def test_restart_leaves_no_client_and_no_model_behind(self) -> None:
        place = self.folder / "without-clients"
        plain = {"run": {"dir": str(place), "keep_clients": True}, "evaluation": [], "report": {"standalone": False}}
        config = merged(self.config, plain)
        self.prune(config)
        old = self.folder / "old-clients"
        shutil.copytree(place / "clients", old)
        (place / "report.html").write_text("of the run before")
        self.prune(merged(config, {"run": {"keep_clients": False, "seed": 8}}), "--restart", ranks=2)
        for name in ("clients", "report.html"):
            self.assertFalse((place / name).exists(), name)
        self.assertEqual([file for file in (place / "state").rglob("*") if file.is_file()], [])
        shutil.copytree(old, place / "clients")  # as an earlier version left it
        said = ["client-1.h5: is of run [0-9a-f]{16}, but .*resume.json is of run"]
        tokens = self.config["evaluation"][0]["tokens"]
        self.refused(BAD_INPUT, said, "eval", place, "--client", "client-1", "--tokens", tokens, "--sequence-length", 40)
        self.refused(BAD_INPUT, said, "export", place, "--client", "client-1", "--out", self.folder / "exported")
        self.prune(merged(config, {"federation": {"aggregation": "none"}}), "--restart")
        self.assertFalse((place / "model").exists())
        self.done("export", place, "--client", "client-1", "--out", self.folder / "exported")

    def test_files_that_no_run_made_are_left_alone(self) -> None:
        plain = {"evaluation": [], "report": {"standalone": False}, "run": {"dir": "."}}
        place = self.folder / "mine"
        place.mkdir()
        config = merged(self.config, plain)
        file = self.write_config(config, "mine/config.toml")
        text = file.read_text()
        self.refused(BAD_INPUT, ["run.dir: found .*mine/?, the folder of .*config.toml"], "prune", file, ranks=2)
        (self.folder / "elsewhere-kept").mkdir()
        for name in ("model", "state", "clients", "blocks"):
            with self.subTest(folder=name):
                (place / name).mkdir()
                (place / name / "precious").write_text("")
                other = self.write_config(config, "mine/other.toml")
                said = [f"which holds {name}/ but no run"]
                for extra in ([], ["--restart"], ["--dry-run"]):
                    self.refused(BAD_INPUT, said, "prune", other, *extra)
                shutil.move(place / name, self.folder / "elsewhere-kept" / name)
        self.assertEqual(sorted(path.name for path in place.iterdir()), ["config.toml", "other.toml"])
        self.assertEqual(file.read_text(), text)
        inside = self.run_dir / "model"
        config = merged(self.config, {"model": {"path": str(inside / ".." / "model")}, **plain})
        config["run"] = {**config["run"], "dir": str(self.run_dir)}
        self.refused(BAD_INPUT, ["run.dir: found .*model"], "prune", self.write_config(config, "loop.toml"), "--restart")
        self.assertTrue((inside / "model.safetensors").exists())

    # ------------------------------------------------------------ dry runs

    def rows(self, text: str) -> list[list[str]]:
        lines = text.splitlines()
        header = next(index for index, line in enumerate(lines) if re.search(r"\brank\b.*\bpeak", line))
        self.assertRegex(lines[header], r"wire")
        self.assertRegex(text, r"(?m)^disk.*model.*run file.*together")
        return [line.split() for line in lines[header + 1 :] if re.match(r"\s*\d+\s", line)]

    def test_dry_run_tells_each_ranks_need_and_writes_nothing(self) -> None:
        place = self.folder / "dry"
        config = merged(self.config, {"run": {"dir": str(place)}})
        for ranks, arguments, expected in ((2, [], 2), (1, ["--assume-ranks", "5"], 5)):
            rows = self.rows(self.prune(config, "--dry-run", *arguments, name="dry.toml", ranks=ranks).stdout)
            self.assertEqual([row[0] for row in rows], [str(rank) for rank in range(expected)])
            self.assertEqual(sum(int(row[1]) for row in rows), 3, "clients of all ranks")
            self.assertTrue(all(float(row[-2]) > 1 for row in rows), "peak memory")
        self.assertFalse(place.exists())

    def test_blocks_that_nobody_prunes_are_in_the_warnings(self) -> None:
        place = self.folder / "uncovered"
        clients = [{**client, "resources": 0.3} for client in self.config["client"][:1]]
        config = merged(
            self.config,
            {
                "run": {"dir": str(place)},
                "prune": {"count": "published"},  # at least one weight more than asked in each block of columns
                "federation": {"layer_sampling": "resources", "coverage": "warn"},
                "client": clients,
                "evaluation": [],
                "report": {"standalone": False},
            },
        )
        self.prune(config, name="uncovered.toml")
        for warnings in (
            json.loads((place / "summary.json").read_text())["warnings"],
            self.done("inspect", place, "--json").json()["warnings"],
        ):
            self.assertRegex(warnings[-2], r"^round 1, block [01]: pruned by no client")
            self.assertRegex(warnings[-1], r"^round 1, block [01]: the clients agree on more zeros")
        events = map(json.loads, (place / "metrics.jsonl").read_text().splitlines())
        self.assertEqual([e["above_target"] for e in events if e["event"] == "block" and e["expanded"] == 0][:1], [True])

    def test_dry_run_prints_every_key(self) -> None:
        text = self.prune(self.config, "--dry-run").stdout
        printed = text[text.index("[model]") : text.index("[[client]]")].splitlines()
        resolved = (self.run_dir / "config.toml").read_text()
        self.assertEqual(printed, resolved[: resolved.index("[[client]]")].splitlines())
        self.assertIn("damping = 0.01", printed, "a default")

    def test_dry_run_of_a_finished_run_does_not_touch_it(self) -> None:
        before = {path: path.stat().st_mtime_ns for path in self.run_dir.rglob("*")}
        self.rows(self.prune(self.config, "--dry-run").stdout)
        self.assertEqual({path: path.stat().st_mtime_ns for path in self.run_dir.rglob("*")}, before)

    def test_bytes_on_the_wire_are_as_forecast(self) -> None:
        for transport in ("reduce", "gather"):
            config = merged(
                self.config,
                {
                    "run": {"dir": str(self.folder / transport)},
                    "federation": {"transport": transport},
                    "evaluation": [],
                    "report": {"standalone": False},
                },
            )
            rows = self.rows(self.prune(config, "--dry-run", ranks=3).stdout)
            self.prune(config, ranks=3)
            sent = json.loads((self.folder / transport / "summary.json").read_text())["bytes_on_wire"]
            forecast = sum(float(row[-1]) for row in rows) * 1e6
            self.assertAlmostEqual(
                sent, forecast, delta=3 * 0.05e6 + 0.05 * sent, msg=f"{transport}, {PROGRAM}"
            )


if __name__ == "__main__":
    main()
