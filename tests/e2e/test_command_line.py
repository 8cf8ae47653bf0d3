#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What can be said of the program without any token file: help, configuration errors, wrong starts.
Needs the standard library only."""

from __future__ import annotations

import re
from typing import Any

from harness import BAD_INPUT, DONE, FIXTURES, STARTED_WRONGLY, ProgramTest, main, merged, run

BASE: dict[str, Any] = {
    "model": {"path": str(FIXTURES / "opt")},
    "run": {"dir": "run"},
    "client": [{"name": "a", "tokens": "a.h5"}],
}


class CommandLine(ProgramTest):
    def test_help_lists_commands_and_exit_statuses(self) -> None:
        text = self.done("--help").stdout
        for word in ("prune", "eval", "inspect", "export", "unpack", "bench", "doctor"):
            self.assertRegex(text, rf"(?m)^\s+{word}\b")
        for status in (0, 1, 2, 3, 4, 5, 6, 7, 75):
            self.assertRegex(text, rf"(?m)(^|\s){status} \w+")

    def test_help_of_each_command_ends_well(self) -> None:
        for word in ("prune", "eval", "inspect", "export", "unpack", "bench", "doctor"):
            self.assertRegex(self.done(word, "--help").stdout, "--help")

    def test_version_names_program_and_libraries(self) -> None:
        text = self.done("--version").stdout
        self.assertRegex(
            text,
            r"^fedspallm \d+\.\d+\.\d+ \(git ([0-9a-f]+(-dirty)?|unknown)\).*Open MPI.*, "
            r"HDF5 \d+\.\S+, CUDA (on \(runtime \d+\.\d+\)|off)",
        )
        self.assertRegex(self.done("doctor").stdout, r", HDF5 \d+\.")

    def test_wrong_command_lines_are_bad_input(self) -> None:
        for arguments in (
            [],
            ["prnue"],
            ["prune"],
            ["eval", "x"],
            ["prune", "x.toml", "--no-such-option"],
            ["export", "x"],
        ):
            with self.subTest(arguments=arguments):
                outcome = run(*arguments)
                self.assertEqual(outcome.status, BAD_INPUT, str(outcome))
                self.assertNotEqual(outcome.stderr, "")
                self.assertEqual(outcome.stdout, "")

    def test_one_rank_speaks_of_a_wrong_command_line(self) -> None:
        outcome = run("prune", "--bogus", ranks=3)
        self.assertEqual(outcome.status, BAD_INPUT, str(outcome))
        self.assertEqual(outcome.stderr.count("CONFIG"), 1, str(outcome))
        self.assertEqual(self.done("--version", ranks=3).stdout.count("fedspallm"), 1)

    def test_seconds_of_the_watchdog(self) -> None:
        for seconds in ("-1", "nan", "inf", "soon"):
            with self.subTest(seconds=seconds):
                outcome = run("prune", "x.toml", "--watchdog", seconds)
                self.assertEqual(outcome.status, BAD_INPUT, str(outcome))
                self.assertRegex(outcome.stderr, rf"--watchdog.*{seconds}")

    def test_doctor_says_what_this_machine_can_do(self) -> None:
        text = self.done("doctor").stdout
        for word in ("MPI", "HDF5", "rank", "core"):
            self.assertRegex(text, re.compile(word, re.I))


class ConfigurationErrors(ProgramTest):
    def refuse(self, expected: list[str], changes: dict[str, Any], *arguments: str, **how: Any) -> str:
        config = self.write_config(merged(BASE, changes), "bad.toml")
        outcome = self.refused(BAD_INPUT, expected, "prune", config, *arguments, **how)
        self.assertFalse((self.folder / "run").exists(), "nothing is made before the configuration is sound")
        return outcome.stderr

    def test_unknown_key_names_line_and_nearest_key(self) -> None:
        self.refuse(
            [r"bad\.toml:9: unknown key 'prune\.sparsty'; did you mean 'prune\.sparsity'"],
            {"prune": {"sparsty": 0.5}},
        )

    def test_unknown_section_and_client_key(self) -> None:
        self.refuse([r"bad\.toml:\d+: .*fedration.*federation"], {"fedration": {"rounds": 2}})
        self.refuse(
            [r"bad\.toml:\d+: .*client.*tokns.*tokens"],
            {"client": [{"name": "a", "tokens": "a", "tokns": "b"}]},
        )

    def test_all_problems_come_in_one_message(self) -> None:
        self.refuse(
            ["sparsty", r"sparsity: found 1\.5", "seed"],
            {"prune": {"sparsty": 0.5, "sparsity": 1.5}, "run": {"seed": "one"}},
        )

    def test_wrong_types_ranges_and_words(self) -> None:
        cases: dict[str, dict[str, Any]] = {
            "prune.sparsity: found 1.5": {"prune": {"sparsity": 1.5}},
            "prune.sparsity: found nan": {"prune": {"sparsity": float("nan")}},
            'prune.method: found "sparsegtp"': {"prune": {"method": "sparsegtp"}},
            "federation.rounds: found 0": {"federation": {"rounds": 0}},
            "prune.pattern: found": {"prune": {"pattern": "4:2"}},
            "calibration.samples: found": {"calibration": {"samples": "many"}},
            "prune.sparsity: found 0.7": {"prune": {"sparsity": 0.7, "pattern": "2:4"}},
            "client": {"client": [{"name": "a", "tokens": "a"}, {"name": "a", "tokens": "b"}]},
            'name: found "../above"': {"client": [{"name": "../above", "tokens": "a"}]},
            "resources: found 0": {"client": [{"name": "a", "tokens": "a", "resources": 0.0}]},
        }
        for message, changes in cases.items():
            with self.subTest(message=message):
                self.refuse([re.escape(message), "bad.toml:"], changes)

    def test_missing_parts(self) -> None:
        self.refuse([r"\[\[client\]\]"], {"client": []})
        path = self.folder / "empty.toml"
        path.write_text("")
        self.refused(BAD_INPUT, ["model.path", "run.dir"], "prune", path)
        self.refused(BAD_INPUT, ["nowhere.toml"], "prune", self.folder / "nowhere.toml")
        path.write_text("[model\npath = 1\n")
        self.refused(BAD_INPUT, [r"empty\.toml:1"], "prune", path)

    def test_bad_settings_are_named(self) -> None:
        self.refuse([r"--set prune\.sparsity=2: .*found 2"], {}, "--set", "prune.sparsity=2")
        self.refuse([r"--set prune\.sparsty=0\.5: .*prune\.sparsity"], {}, "--set", "prune.sparsty=0.5")

    def test_all_ranks_end_alike_and_one_speaks(self) -> None:
        self.refuse(["sparsty"], {"prune": {"sparsty": 0.5}}, ranks=3)

    def test_missing_model_is_named(self) -> None:
        self.refuse(["no-such-model"], {"model": {"path": "no-such-model"}}, ranks=2)

    def test_unknown_family_is_refused_with_the_known_ones(self) -> None:
        folder = self.folder / "foreign"
        folder.mkdir()
        (folder / "config.json").write_text('{"model_type": "mamba", "architectures": ["MambaForCausalLM"]}')
        self.refuse(["mamba", "llama", "opt", "qwen2"], {"model": {"path": str(folder)}})


class WrongStart(ProgramTest):
    def refuse(self, env: dict[str, str], expected: str) -> None:
        config = self.write_config(BASE)
        outcome = self.refused(STARTED_WRONGLY, [expected, "mpirun -np 4"], "prune", config, env=env)
        self.assertLess(
            outcome.seconds, 10, "it does not wait for ranks that never come"
        )  # 2 s wanted; machines are busy
        self.assertFalse((self.folder / "run").exists())

    def test_a_foreign_mpirun_is_noticed(self) -> None:
        self.refuse({"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "0"}, "OMPI_COMM_WORLD_SIZE=4")

    def test_plain_srun_is_noticed(self) -> None:
        self.refuse({"SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "0"}, "SLURM_STEP_NUM_TASKS=4")

    def test_an_allocation_alone_is_no_proof(self) -> None:
        outcome = run("doctor", env={"SLURM_NTASKS": "4", "SLURM_JOB_ID": "1"})
        self.assertEqual(outcome.status, DONE, str(outcome))

    def test_files_can_be_inspected_anywhere(self) -> None:
        self.done("inspect", FIXTURES / "opt", env={"OMPI_COMM_WORLD_SIZE": "4"})


if __name__ == "__main__":
    main()
