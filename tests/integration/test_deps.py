"""What deploy/deps fetches is there whole or not at all, whatever the registry and the user do meanwhile."""

import os
import shutil
import signal
import subprocess
import time

import pytest

from harness import PATIENCE, ROOT, release_only

pytestmark = release_only  # no broker is in it

LOCK = "package-lock.json"
HALF, SLOW, WHOLE = "exit 1", "exec sleep 60", 'touch "$3/node_modules/whole"'


class Tree:
    """A tree with deploy/npm in it, whose list `test` an npm of our own installs."""

    def __init__(self, directory):
        self.directory = directory
        self.fetched = directory / "build/npm/test"
        shutil.copytree(ROOT / "deploy/npm", directory / "deploy/npm")
        (directory / "bin").mkdir()

    def npm(self, script):
        """What npm does once it has begun: it is called as npm ci --prefix FOLDER."""
        path = self.directory / "bin/npm"
        path.write_text(f'#!/bin/sh\necho >>{self.directory}/tries\nmkdir -p "$3/node_modules/half"\n{script}\n')
        path.chmod(0o755)

    def fetch(self):
        env = {**os.environ, "PATH": f"{self.directory}/bin:{os.environ['PATH']}", "FETCH_PAUSE": "0"}
        return subprocess.Popen([self.directory / "deploy/npm/fetch", "test"], env=env, text=True, stdin=subprocess.DEVNULL,
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)

    def fetches(self):
        process = self.fetch()
        said, _ = process.communicate(timeout=PATIENCE)
        return process.returncode, said

    def tries(self):
        tries = self.directory / "tries"
        return len(tries.read_text()) if tries.exists() else 0

    def lists(self):
        """What is below build/npm: the list, and no rests."""
        return sorted(os.listdir(self.directory / "build/npm"))


@pytest.fixture
def tree(tmp_path):
    return Tree(tmp_path)


def test_a_registry_that_fails_is_asked_again(tree):
    tree.npm(f"test $(wc -l <{tree.directory}/tries) -gt 2 || {HALF}; {WHOLE}")
    status, said = tree.fetches()
    assert status == 0 and said.count("failed; the next") == 2, said
    assert tree.tries() == 3 and tree.lists() == ["test"]
    assert (tree.fetched / "node_modules/whole").exists()


def test_half_an_installation_is_never_taken_for_a_whole_one(tree):
    tree.npm(HALF)
    status, said = tree.fetches()
    assert status == 1 and "in 5 tries" in said
    assert tree.lists() == []
    tree.npm(WHOLE)
    assert tree.fetches()[0] == 0
    assert (tree.fetched / "node_modules/whole").exists()


def test_an_interrupted_fetch_leaves_nothing(tree):
    tree.npm(SLOW)
    process = tree.fetch()
    deadline = time.monotonic() + PATIENCE
    while not tree.tries():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGTERM)
    process.communicate(timeout=PATIENCE)
    assert process.returncode == 143 and tree.lists() == []


def test_what_is_there_is_not_fetched_again_until_the_list_changes(tree):
    tree.npm(WHOLE)
    assert tree.fetches()[0] == 0
    assert tree.fetches() == (0, "") and tree.tries() == 1
    with open(tree.directory / "deploy/npm/test" / LOCK, "a") as lock:
        lock.write("\n")
    (tree.fetched / "node_modules/old").touch()
    assert tree.fetches()[0] == 0 and tree.tries() == 2
    assert not (tree.fetched / "node_modules/old").exists()
