#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Bad inputs by table: what is wrong, the exit status, a part of the message. Each case changes one thing of
a configuration that runs, and must fail before any work starts: no run directory, no output folder.

The files themselves are made in bad_files.py. More cases, with several ranks: test_errors.py."""

from __future__ import annotations

import os
import shutil
import subprocess
import unittest
from pathlib import Path
from typing import Any

from harness import (
    BAD_INPUT,
    DONE,
    NO_RESOURCES,
    PROGRAM,
    TIMEOUT,
    enter_venv,
    environment,
    main,
    merged,
    to_toml,
)

if __name__ == "__main__":
    enter_venv()

import bad_files  # noqa: E402
import models  # noqa: E402

NAN, INFINITY = float("nan"), float("inf")


class BadInput(models.ModelTest):
    """A sound model, two clients, and a configuration of them."""

    CLIENTS = 2

    def setUp(self) -> None:
        self.run_dir = self.folder / "runs" / self._testMethodName

    def config(self, changes: dict[str, Any]) -> dict[str, Any]:
        return merged(models.run_config(self.model, self.run_dir, self.clients), changes)

    def refuse(self, status: int, message: str, changes: dict[str, Any]) -> None:
        """`prune` with these changes must end so, and leave no run directory."""
        self.refused(status, [message], "prune", self.write_config(self.config(changes)))
        self.assertFalse(self.run_dir.exists(), "refused before any work starts")

    def refuse_text(self, message: str, text: str | bytes) -> None:
        """The same for the text of a configuration."""
        path = self.folder / "text.toml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        self.refused(BAD_INPUT, [message], "prune", path)
        self.assertFalse(self.run_dir.exists(), "refused before any work starts")

    def refuse_tokens(self, message: str, path: Path, status: int = BAD_INPUT) -> None:
        """The same for the second client's token file."""
        self.refuse(status, message, {"client": [self.clients[0], {**self.clients[1], "tokens": str(path)}]})


class Configurations(BadInput):
    def test_values(self) -> None:
        cases: list[tuple[str, str, Any, str]] = [
            ("prune", "sparsity", -0.1, r"sparsity: found -0\.1, expected a number from 0 to 1"),
            ("prune", "sparsity", 1.5, r"sparsity: found 1\.5"),
            ("prune", "sparsity", NAN, "sparsity: found nan"),
            ("prune", "sparsity", "half", 'sparsity: found the string "half"'),
            ("prune", "pattern", "4:2", 'pattern: found "4:2", expected'),
            ("prune", "pattern", "4:4", 'pattern: found "4:4"'),
            ("prune", "pattern", "0:4", 'pattern: found "0:4"'),
            ("prune", "pattern", "2:4:8", 'pattern: found "2:4:8"'),
            ("prune", "pattern", "-2:4", 'pattern: found "-2:4"'),
            ("prune", "block_size", 0, "block_size: found 0"),
            ("prune", "damping", 0, "damping: found 0"),
            ("prune", "method", "sparsgpt", "did you mean 'sparsegpt'"),
            ("calibration", "samples", 0, "samples: found 0, expected an integer from 1"),
            ("calibration", "samples", -1, "samples: found -1"),
            ("calibration", "sequence_length", 0, "sequence_length: found 0"),
            ("calibration", "sequence_length", 129, "sequence_length: found 129, expected at most 128"),
            ("federation", "rounds", 0, "rounds: found 0"),
            ("federation", "rounds", 1.5, r"rounds: found 1\.5"),
            ("run", "seed", -1, "seed: found -1"),
            ("run", "dir", "", 'run.dir: found "", expected a path'),
            ("model", "path", "", 'model.path: found "", expected a path'),
            ("model", "path", "~/model", "without '~'"),
        ]
        for section, key, value, message in cases:
            with self.subTest(key=key, value=value):
                self.refuse(BAD_INPUT, message, {section: {key: value}})

    def test_clients_and_evaluations(self) -> None:
        first, second = self.clients
        tokens = first["tokens"]
        evaluation = {"name": "e", "tokens": tokens, "sequence_length": 40}
        cases: list[tuple[str, dict[str, Any]]] = [
            ("the name 'client-0' is already taken", {"client": [first, {**second, "name": "client-0"}]}),
            ('found "a/b", expected a name without slashes', {"client": [{**first, "name": "a/b"}]}),
            ("without slashes", {"client": [{**first, "name": "a\\b"}]}),
            ('found "\\.\\."', {"client": [{**first, "name": ".."}]}),
            ("expected a name that is not empty", {"client": [{**first, "name": ""}]}),
            ("at most 100 bytes", {"client": [{**first, "name": "n" * 101}]}),
            ("without control characters", {"client": [{**first, "name": "a\nb"}]}),
            ("empty list, expected at least one path", {"client": [{**first, "tokens": []}]}),
            ("resources: found 0", {"client": [{**first, "resources": 0.0}]}),
            ("rank: found -1", {"client": [{**first, "rank": -1}]}),
            ("found 1.*1 rank", {"client": [{**first, "rank": 1}]}),
            ("no \\[\\[client\\]\\]", {"client": []}),
            ("the name 'e' is already taken", {"evaluation": [evaluation, evaluation]}),
            ("samples: found 0", {"evaluation": [{**evaluation, "samples": 0}]}),
            ("sequence_length: found 1", {"evaluation": [{**evaluation, "sequence_length": 1}]}),
            ("sequence_length: found 129", {"evaluation": [{**evaluation, "sequence_length": 129}]}),
            ("nowhere.h5: no such file", {"evaluation": [{**evaluation, "tokens": "nowhere.h5"}]}),
        ]
        for message, changes in cases:
            with self.subTest(message=message):
                self.refuse(BAD_INPUT, message, changes)

    def test_files(self) -> None:
        good = to_toml(self.config({}))
        cases: list[tuple[str, str | bytes]] = [
            ("missing key 'model.path'", ""),
            (r"text\.toml:\d+:\d+: ", good[: good.index("sparsity") + 11]),
            (r"text\.toml:\d+:\d+: ", b'[model]\npath = "\xff\xfe"\n'),
            (r"text\.toml:\d+:\d+: ", b"\x00\x01\x02\x03"),
            (r"text\.toml:\d+:\d+: .*sparsity", good.replace("[prune]", "[prune]\nsparsity = 0.4")),
            (r"text\.toml:\d+:\d+: ", good + '[model]\npath = "x"\n'),
            ("double brackets", good[: good.index("[[client]]")] + '[client]\nname = "a"\n'),
        ]
        for message, text in cases:
            with self.subTest(message=message):
                self.refuse_text(message, text)

    def test_places_without_a_configuration(self) -> None:
        loop = bad_files.symlink_loop(self.folder / "loop.toml")
        for path in (self.folder / "nowhere.toml", self.folder, loop, Path("/dev/zero")):
            with self.subTest(path=path):
                self.refused(BAD_INPUT, [f"{path}: cannot be read"], "prune", path)


class TokenFiles(BadInput):
    def test_files_that_are_no_sound_token_files(self) -> None:
        vocabulary = models.vocabulary(self.model)
        for case in bad_files.token_files(self.folder / "bad-tokens", vocabulary):
            with self.subTest(case=case.title):
                self.refuse_tokens(f"{case.path.name}.*{case.message}", case.path)

    def test_too_few_tokens(self) -> None:
        short = models.write_tokens(self.folder / "short.h5", [1] * 39, models.vocabulary(self.model))
        self.refuse_tokens("short.h5: holds 39 tokens, expected at least 40", short)


class Models(BadInput):
    def refuse_models(self, cases: list[bad_files.Case]) -> None:
        for case in cases:
            with self.subTest(case=case.title):
                self.refuse(BAD_INPUT, case.message, {"model": {"path": str(case.path)}})

    def test_weights(self) -> None:
        self.refuse_models(bad_files.weights(self.folder / "weights"))

    def test_indices_and_shards(self) -> None:
        self.refuse_models(bad_files.shards(self.folder / "shards"))

    def test_configurations_of_models(self) -> None:
        self.refuse_models(bad_files.model_configs(self.folder / "configs"))

    def test_folders(self) -> None:
        self.refuse_models(bad_files.model_folders(self.folder / "folders"))

    def test_a_file_of_the_model_that_cannot_be_copied(self) -> None:
        model = models.copy_model(models.LLAMA, self.folder / "uncopied")
        (model / "tokenizer.json").unlink()
        bad_files.symlink_loop(model / "tokenizer.json")
        config = self.write_config(self.config({"model": {"path": str(model)}}))
        self.refused(BAD_INPUT, ["tokenizer.json: is a symbolic link to nothing"], "prune", config)
        self.assertFalse((self.run_dir / "blocks").exists(), "refused before the first block")

    def test_eval_and_inspect_say_the_same(self) -> None:
        tokens = self.clients[0]["tokens"]
        case = bad_files.weights(self.folder / "eval")[0]
        length = ("--sequence-length", 40)
        self.refused(BAD_INPUT, [case.message], "inspect", case.path)
        self.refused(BAD_INPUT, [case.message], "eval", case.path, "--tokens", tokens, *length)
        self.refused(BAD_INPUT, ["nowhere.h5"], "eval", self.model, "--tokens", "nowhere.h5", *length)
        self.refused(
            BAD_INPUT, ["found 129"], "eval", self.model, "--tokens", tokens, "--sequence-length", 129
        )


class OtherFiles(BadInput):
    def test_run_files_and_bitmask_files(self) -> None:
        for case in bad_files.raw_files(self.folder / "raw"):
            with self.subTest(case=case.title):
                out = self.folder / "out"
                command = (
                    ("unpack", case.path) if case.path.suffix == ".fspm" else ("export", case.path.parent)
                )
                self.refused(BAD_INPUT, [case.message], *command, "--out", out)
                self.assertFalse(out.exists())

    def test_export_of_what_is_no_run(self) -> None:
        folder = self.folder / "no-run"
        folder.mkdir()
        for path in (folder, self.folder / "nowhere"):
            self.refused(BAD_INPUT, [path.name], "export", path, "--out", self.folder / "exported")
        self.assertFalse((self.folder / "exported").exists())


class Places(BadInput):
    """Folders that cannot be read or written, and what is not needed. Root may do anything, so mounts and
    another user stand in."""

    def test_run_directory_that_is_no_folder(self) -> None:
        file = self.folder / "a-file"
        file.write_text("")
        loop = bad_files.symlink_loop(self.folder / "a-loop")
        for place in (file, file / "below", loop, loop / "below"):
            with self.subTest(place=place):
                config = self.write_config(self.config({"run": {"dir": str(place)}}))
                self.refused(NO_RESOURCES, [str(place)], "prune", config)
        self.assertEqual(file.read_text(), "")

    def run_wrapped(self, wrapper: list[str], *arguments: object) -> subprocess.CompletedProcess[str]:
        command = [*wrapper, PROGRAM, *map(str, arguments)]
        return subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=False,
            timeout=TIMEOUT,
            env=environment({"HOME": "/tmp"}),
        )

    def in_namespace(self, script: str, *options: str) -> list[str]:
        """A wrapper that runs `script`, then the command, in namespaces of its own."""
        user = [] if os.geteuid() == 0 else ["--map-root-user"]
        wrapper = ["unshare", *options, *user, "sh", "-c", f'{script} && exec "$@"', "sh"]
        possible = shutil.which("unshare") and subprocess.run([*wrapper, "true"], check=False).returncode == 0
        if not possible:
            self.skipTest(f"unshare {' '.join(options)} is not possible here")
        return wrapper

    def read_only(self, place: Path) -> list[str]:
        return self.in_namespace(
            f'mount --bind "{place}" "{place}" && mount -o remount,ro,bind "{place}"', "--mount"
        )

    def test_run_directory_on_a_read_only_file_system(self) -> None:
        place = self.folder / "read-only"
        place.mkdir()
        config = self.write_config(self.config({"run": {"dir": str(place / "run")}}))
        outcome = self.run_wrapped(self.read_only(place), "prune", config)
        self.assertEqual(outcome.returncode, NO_RESOURCES, outcome.stderr)
        self.assertRegex(outcome.stderr, f"{place}/run.*Read-only file system")
        self.assertEqual(list(place.iterdir()), [])

    def test_inputs_may_be_read_only(self) -> None:
        place = self.folder / "inputs"
        model = models.copy_model(models.LLAMA, place / "model")
        clients = models.clients_of(place / "tokens", model, 2)
        config = self.write_config(self.config({"model": {"path": str(model)}, "client": clients}))
        outcome = self.run_wrapped(self.read_only(place), "prune", config)
        self.assertEqual(outcome.returncode, DONE, outcome.stderr)
        self.assertTrue((self.run_dir / "model" / "model.safetensors").exists())

    def test_no_network_is_needed(self) -> None:
        config = self.write_config(self.config({}))
        loopback_only = self.in_namespace("ip link set lo up", "--net")  # Open MPI wants that one
        outcome = self.run_wrapped(loopback_only, "prune", config)
        self.assertEqual(outcome.returncode, DONE, outcome.stderr)
        self.assertTrue((self.run_dir / "model" / "model.safetensors").exists())

    def test_files_of_somebody_else(self) -> None:
        if os.geteuid() != 0 or shutil.which("setpriv") is None:
            self.skipTest("needs root and setpriv to become somebody else")
        wrapper = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
        self.folder.chmod(0o755)
        if subprocess.run([*wrapper, "test", "-x", PROGRAM], check=False).returncode != 0:
            self.skipTest(f"others cannot run {PROGRAM}")
        tokens = Path(shutil.copy(self.clients[0]["tokens"], self.folder / "secret.h5"))
        model = models.copy_model(models.LLAMA, self.folder / "secret-model")
        tokens.chmod(0o600)
        (model / "model.safetensors").chmod(0o600)
        for message, arguments in (
            ("secret.h5.*Permission denied|secret.h5.*not readable", (self.model, tokens)),
            ("model.safetensors: cannot open it: Permission denied", (model, self.clients[0]["tokens"])),
        ):
            model_path, path = arguments
            outcome = self.run_wrapped(wrapper, "eval", model_path, "--tokens", path, "--sequence-length", 40)
            self.assertEqual(outcome.returncode, BAD_INPUT, outcome.stderr)
            self.assertRegex(outcome.stderr, message)


if __name__ == "__main__":
    unittest.TestCase.maxDiff = None
    main()
