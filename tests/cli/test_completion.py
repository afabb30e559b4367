"""Commands and options complete in a real shell."""

import shutil
import subprocess

import pytest

from lightnas_edge.cli import main


def script(capsys, *arguments):
    assert main(["completion", *arguments]) == 0
    return capsys.readouterr().out


def completed(tmp_path, text, program, *words):
    """What bash offers for the last word."""
    file = tmp_path / "completion.bash"
    file.write_text(text, encoding="utf-8")
    code = (
        'source "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMP_LINE="$*"; COMP_POINT=${#COMP_LINE}; '
        'name=$(complete -p "$1" | sed "s/.*-F \\([^ ]*\\).*/\\1/"); "$name" "$1"; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(
        ["bash", "-c", code, "bash", str(file), program, *words], capture_output=True, text=True, check=True, timeout=60
    )
    return done.stdout.split()


def test_bash_completes_commands_and_their_options(tmp_path, capsys):
    text = script(capsys, "bash")

    assert completed(tmp_path, text, "lightnas-edge", "sea") == ["search"]
    assert {"--latency-ms", "--latency-p95-ms"} & set(completed(tmp_path, text, "lightnas-edge", "search", "--lat"))
    assert completed(tmp_path, text, "lightnas-edge", "search", "--method", "ent") == ["entangled"]


def test_profile_device_has_a_script_of_its_own(tmp_path, capsys):
    text = script(capsys, "bash", "--program", "profile-device")

    assert "--space" in completed(tmp_path, text, "profile-device", "--sp")


@pytest.mark.skipif(not shutil.which("zsh"), reason="no zsh here")
def test_the_script_for_zsh_is_one(tmp_path, capsys):
    file = tmp_path / "_lightnas-edge"
    file.write_text(script(capsys, "zsh"), encoding="utf-8")

    subprocess.run(["zsh", "-n", str(file)], check=True, timeout=60)
