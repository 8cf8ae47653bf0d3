#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""`cmake --install`: the installed tree works where it was moved to, with its man page, module file, job files and
tools."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import unittest
from pathlib import Path

import harness
from harness import PROGRAM, ProgramTest, enter_venv, main, merged, run

if __name__ == "__main__":
    enter_venv()

import models  # noqa: E402

BUILD = Path(os.environ.get("FEDSPALLM_BUILD", Path(PROGRAM).parent))


class Install(ProgramTest):
    moved: Path

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        prefix, cls.moved = cls.folder / "prefix", cls.folder / "else where"
        subprocess.run(["cmake", "--install", BUILD, "--prefix", prefix], check=True, capture_output=True)
        prefix.rename(cls.moved)

    def setUp(self) -> None:
        self.program = str(self.moved / "bin" / "fedspallm")
        self.addCleanup(setattr, harness, "PROGRAM", harness.PROGRAM)
        harness.PROGRAM = self.program

    def test_the_moved_program_prunes(self) -> None:
        self.assertRegex(run("--version").stdout, r"^fedspallm \d+\.\d+\.\d+ ")
        clients = models.clients_of(self.folder / "tokens", models.LLAMA, 2)
        config = models.run_config(models.LLAMA, self.folder / "run", clients)
        self.prune(config, ranks=2)
        self.done("inspect", self.folder / "run")

    def test_the_man_page_is_clean_and_names_all_commands_and_options(self) -> None:
        page = self.moved / "share" / "man" / "man1" / "fedspallm.1"
        groff = shutil.which("groff")
        if groff is None:
            self.skipTest("groff is not installed")
        done = subprocess.run(
            [groff, "-man", "-ww", "-Tutf8", "-P-cbou", page], capture_output=True, text=True, check=True
        )
        self.assertEqual(done.stderr, "")
        text = re.sub(r"[\u2010\u2011\u2212]", "-", done.stdout)
        help_text = run("--help").stdout
        commands = re.findall(r"^  ([a-z]+) {2,}", help_text.split("Subcommands:")[1], re.MULTILINE)
        self.assertIn("prune", commands)
        for command in commands:
            self.assertRegex(text, rf"\n +{command}\b")
        for option in re.findall(r"(--[a-z-]+)", run("prune", "--help").stdout):
            self.assertIn(option, text)
        for status in re.findall(r"\b(\d+) [a-z]", help_text.split("Exit status")[1]):
            self.assertRegex(text, rf"\n +{status}\b")

    def test_the_module_file_finds_its_own_prefix(self) -> None:
        version = run("--version").stdout.split()[1]
        module = self.moved / "share" / "fedspallm" / "modulefiles" / "fedspallm" / version
        tclsh = shutil.which("tclsh")
        if tclsh is None:
            self.skipTest("tclsh is not installed")
        # What a module system defines for the file, as far as this one uses it.
        script = """
            set ModulesCurrentModulefile [lindex $argv 0]
            proc module-whatis {text} {}
            proc conflict {name} {}
            proc prepend-path {name value} {puts "$name=$value"}
            proc setenv {name value} {puts "$name=$value"}
            source [lindex $argv 0]
            ModulesHelp
        """
        file = self.folder / "module.tcl"
        file.write_text(script)
        done = subprocess.run([tclsh, file, module], capture_output=True, text=True, check=True)
        found = dict(line.split("=", 1) for line in done.stdout.splitlines())
        self.assertEqual(found["PATH"], str(self.moved / "bin"))
        self.assertTrue((Path(found["MANPATH"]) / "man1" / "fedspallm.1").is_file())
        self.assertEqual(found["FEDSPALLM"], self.program)
        self.assertTrue((Path(found["FEDSPALLM_ROOT"]) / "jobs" / "slurm-step.sh").is_file())
        self.assertIn(version, done.stderr)

    def test_installed_job_files_and_tools_work(self) -> None:
        home = self.moved / "share" / "fedspallm"
        clients = models.clients_of(self.folder / "tokens-2", models.LLAMA, 2)
        config = merged(models.run_config(models.LLAMA, self.folder / "station", clients), {})
        file = self.write_config(config, "station.toml")
        done = subprocess.run(
            [home / "jobs" / "workstation.sh", "2", file], capture_output=True, text=True, check=False,
            stdin=subprocess.DEVNULL, env=harness.environment({"FEDSPALLM": self.program}),
        )  # fmt: skip
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertTrue((self.folder / "station" / "report.html").is_file(), done.stdout)
        self.assertFalse((home / "jobs" / "quickstart.sh").exists(), "it needs the sources")

    def test_job_files_say_which_lines_to_change(self) -> None:
        jobs = self.moved / "share" / "fedspallm" / "jobs"
        files = [*jobs.glob("*.sbatch"), jobs / "pbs.sh"]
        self.assertGreaterEqual(len(files), 6)
        for file in files:
            lines = file.read_text().splitlines()
            head = lines[: next(i for i, line in enumerate(lines) if not line.startswith("#"))]
            self.assertIn(
                "<--", " ".join(line for line in head if line.startswith("# ")), f"{file}: its head says it"
            )
            self.assertGreaterEqual(sum("<--" in line for line in lines), 5, str(file))

    def test_a_sweeps_line_whose_quotes_would_join_words_is_refused(self) -> None:
        jobs = self.moved / "share" / "fedspallm" / "jobs"
        sweep = self.folder / "sweep.txt"
        sweep.write_text('a.toml --set run.dir="one two"\na.toml --set run.dir=one\\ two\n')
        for line in ("1", "2"):
            place = {"SLURM_ARRAY_TASK_ID": line, "SLURM_SUBMIT_DIR": str(self.folder)}
            done = subprocess.run(
                ["bash", jobs / "slurm-array.sbatch", sweep], capture_output=True, text=True, check=False,
                stdin=subprocess.DEVNULL, env=harness.environment(place),
            )  # fmt: skip
            self.assertEqual(done.returncode, 2, done.stderr)
            self.assertIn(f"sweep.txt, line {line}: run.dir=", done.stderr)
            self.assertIn("cannot join words", done.stderr)

    def test_nothing_holds_the_prefix_or_the_sources(self) -> None:
        for file in self.moved.rglob("*"):
            if file.is_file():
                content = file.read_bytes()
                self.assertNotIn(str(self.folder / "prefix").encode(), content, str(file))
                if file.name != "fedspallm":  # messages of failed checks may name the source file
                    self.assertNotIn(str(harness.ROOT).encode(), content, str(file))


if __name__ == "__main__":
    unittest.TestCase.maxDiff = None
    main()
