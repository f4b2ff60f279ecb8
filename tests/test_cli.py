"""The command line: what is printed where, the exit codes, and that nothing heavy is imported for a help text."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest

import yanmo
from benchmarks.b0 import make_model
from yanmo import cli, machine
from yanmo.cli.generate import read_prompt, visible
from yanmo.errors import InputError

ROOT = Path(__file__).resolve().parents[1]
VERBS = {"tour", "tokenizer", "pretrain", "generate", "doctor"}
PROMPT = "Once upon"


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    """The folder of a tiny random model in which each byte is a token."""
    folder = tmp_path_factory.mktemp("model")
    sizes = {"n_layer": 1, "n_embd": 16, "n_head": 2, "vocab_size": 256, "bos_token_id": 0, "eos_token_id": 0}
    make_model(pytest.importorskip("transformers"), folder, **sizes)
    return str(folder)


@pytest.fixture
def yan(capsys, monkeypatch):
    """Run one command line in this process: (exit code, standard output, standard error)."""

    def run(*args: str, stdin: bytes | None = None) -> tuple[int, str, str]:
        if stdin is not None:
            monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            cli.main(list(args))
        said = capsys.readouterr()
        return end.value.code, said.out, said.err

    return run


def command(*args: str, **options) -> subprocess.Popen[bytes]:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    if os.name == "posix":  # a shell that runs the tests in its background ignores Ctrl-C, and so would its children
        pipes["preexec_fn"] = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)
    return subprocess.Popen([sys.executable, "-m", "yanmo", *args], cwd=ROOT, **{**pipes, **options})


# --- help, version, exit codes


def test_the_help_names_every_verb(yan):
    code, out, _ = yan("--help")
    assert code == 0
    assert {line.split()[1] for line in out.splitlines() if line.startswith("│") and len(line.split()) > 2} >= VERBS


@pytest.mark.parametrize("verb", sorted(VERBS))
def test_every_verb_has_a_short_help_too(yan, verb):
    code, out, _ = yan(verb, "-h")
    assert code == 0
    assert f"yanmo {verb}" in out


def test_the_version(yan):
    assert yan("--version") == (0, f"yanmo {yanmo.__version__}\n", "")


@pytest.mark.skipif(os.name != "posix", reason="counts the processor time of a child process")
def test_the_help_takes_less_than_half_a_second():
    import resource

    taken = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert command("--help").communicate()[0]
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        taken.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(taken) < 0.5


def test_a_mistake_in_the_usage_is_2(yan):
    code, out, err = yan("doctr")
    assert (code, out) == (2, "")
    assert "'doctor'" in err


def test_a_mistake_that_the_user_can_mend_is_2_and_one_sentence(yan, tmp_path):
    code, out, err = yan("generate", str(tmp_path / "nothing"), PROMPT)
    assert (code, out) == (2, "")
    assert err.startswith("yanmo: ")
    assert err.count("\n") == 1
    assert "nothing" in err


def test_a_defect_is_1_with_its_traceback(yan, monkeypatch):
    def broken(quick):
        raise RuntimeError("a wheel came off")

    monkeypatch.setattr(machine, "doctor", broken)
    code, out, err = yan("doctor")
    assert (code, out) == (1, "")
    assert "Traceback" in err
    assert err.endswith(
        "RuntimeError: a wheel came off\nyanmo: this is a defect of Yanmo; please report it with the lines above\n"
    )


def test_a_warning_is_one_line(yan, monkeypatch):
    def careful(quick):
        warnings.warn("the moon is full", stacklevel=1)
        raise InputError("no")

    monkeypatch.setattr(machine, "doctor", careful)
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        assert yan("doctor")[2] == "yanmo: the moon is full\nyanmo: no\n"


@pytest.mark.skipif(os.name != "posix", reason="sends a signal")
def test_ctrl_c_is_130_and_says_that_one_can_go_on(model):
    with command("generate", model, "-") as running:
        time.sleep(1.0)  # it waits for standard input
        running.send_signal(signal.SIGINT)
        err = running.stderr.read().decode()
        assert running.wait() == 130
    assert err.strip() == "yanmo: interrupted; run the same command again: a run goes on, all else begins anew"


def test_ctrl_c_before_a_verb_has_begun_is_130_too(yan, monkeypatch):
    def interrupted(args, prog_name):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "app", interrupted)
    assert yan("doctor")[0] == 130


@pytest.mark.skipif(os.name != "posix", reason="closes a pipe")
@pytest.mark.parametrize("args", [["--help"], ["--version"], ["doctor", "--quick"], ["doctor", "--quick", "--json"]])
def test_a_reader_who_leaves_early_is_no_error(args):
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with command(*args, env=buffered) as running:
        running.stdout.close()
        assert running.stderr.read() == b""
        assert running.wait() in (0, 1)


@pytest.mark.parametrize(("rank", "said"), [(None, 1), ("0", 1), ("3", 0)])
def test_of_several_processes_that_are_interrupted_one_says_so(yan, monkeypatch, rank, said):
    def interrupted(*_args, **_options):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "app", interrupted)
    monkeypatch.delenv("RANK", raising=False)
    if rank is not None:
        monkeypatch.setenv("RANK", rank)
    code, _, err = yan("doctor")
    assert code == 130 and err.count("interrupted") == said


# --- generate


def test_the_new_text_is_streamed_to_standard_output(yan, model):
    code, out, err = yan("generate", model, PROMPT, "--max-new-tokens", "20")
    text = yanmo.load(model).generate(PROMPT, max_new_tokens=20)
    assert (code, err) == (0, "")
    assert out == (text if text.endswith("\n") else text + "\n")


@pytest.mark.parametrize("args", [["-"], []])
def test_the_prompt_may_come_from_standard_input(yan, model, args):
    given = yan("generate", model, PROMPT, "--max-new-tokens", "8")
    assert yan("generate", model, *args, "--max-new-tokens", "8", stdin=f"{PROMPT}\n".encode()) == given


def test_a_prompt_that_is_not_utf8_is_one_sentence(yan, model):
    code, _, err = yan("generate", model, "-", stdin=b"ab\xff")
    assert code == 2
    assert err == "yanmo: standard input: byte 0xff at offset 2 is not UTF-8; convert the text\n"


def test_no_prompt_at_all_does_not_wait_for_ever(monkeypatch):
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    with pytest.raises(InputError, match="no prompt was given"):
        read_prompt(None)


def test_only_the_last_line_break_of_standard_input_is_dropped(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("\ufeffa \n\r\n".encode())))
    assert read_prompt("-") == "a \n"


def test_a_temperature_really_samples_and_a_seed_repeats_it(yan, model):
    def text(*args: str) -> str:
        return yan("generate", model, PROMPT, "--max-new-tokens", "30", *args)[1]

    assert text("--temperature", "1.5", "--seed", "1") == text("--temperature", "1.5", "--seed", "1")
    assert text("--temperature", "1.5", "--seed", "1") != text("--temperature", "1.5", "--seed", "2")
    assert text("--temperature", "1.5", "--seed", "1") != text()


def test_every_option_reaches_the_model(yan, model):
    options = {
        "--max-length": 40,
        "--temperature": 0.9,
        "--top-k": 50,
        "--top-p": 0.9,
        "--min-p": 0.3,
        "--typical-p": 0.95,
        "--repetition-penalty": 1.2,
        "--presence-penalty": 0.5,
        "--frequency-penalty": 0.25,
        "--seed": 7,
    }
    named = {name.strip("-").replace("-", "_"): value for name, value in options.items()}
    text = yanmo.load(model).generate(PROMPT, **named)
    flat = [str(word) for pair in options.items() for word in pair]
    assert yan("generate", model, PROMPT, *flat)[1].removesuffix("\n") == text.removesuffix("\n")


def test_a_stop_text_ends_the_writing(yan, model):
    whole = yan("generate", model, PROMPT, "--max-new-tokens", "20")[1]
    stop = whole[5:7]
    cut = yan("generate", model, PROMPT, "--max-new-tokens", "20", "--stop", "never", "--stop", stop)[1]
    assert cut.removesuffix("\n") == whole[: whole.index(stop)].removesuffix("\n")


def test_json_says_everything(yan, model):
    args = ["--max-new-tokens", "3", "--n", "2", "--temperature", "1", "--seed", "3", "--logprobs", "2", "--json"]
    code, out, _ = yan("generate", model, PROMPT, *args)
    found = json.loads(out)
    assert code == 0
    assert (found["model"], found["prompt"], len(found["texts"])) == (model, PROMPT, 2)
    for text in found["texts"]:
        assert set(text) == {"text", "ids", "finish", "logprobs", "top"}
        assert len(text["ids"]) == len(text["logprobs"]) == len(text["top"])
        assert all(len(likeliest) == 2 for likeliest in text["top"])


def test_several_texts_are_told_apart_and_tokens_listed(yan, model):
    args = ["--max-new-tokens", "3", "--n", "2", "--temperature", "1", "--seed", "3"]
    assert yan("generate", model, PROMPT, *args)[1].count("----\n") == 1
    listed = yan("generate", model, PROMPT, "--max-new-tokens", "3", "--logprobs", "1")[1].splitlines()
    assert len([line for line in listed if line.startswith("  ")]) == 3


def test_an_option_out_of_range_is_one_sentence(yan, model):
    code, out, err = yan("generate", model, PROMPT, "--top-p", "7")
    assert (code, out) == (2, "")
    assert "top_p is 7" in err


def test_a_model_cannot_steer_the_terminal(monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    assert visible("a\x1b[2J\r\tb\n") == "a␛[2J␍\tb\n"
    monkeypatch.setattr(sys.stdout, "isatty", lambda: False, raising=False)
    assert visible("a\x1b[2J") == "a\x1b[2J"


def test_chinese_is_written_as_utf8_whatever_the_locale_says(model):
    plain = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONIOENCODING"}
    running = command("generate", model, "--max-new-tokens", "1", "--json", env=kept | plain)
    out, err = running.communicate("研墨".encode())
    assert (running.returncode, err) == (0, b"")
    assert json.loads(out.decode("utf-8"))["prompt"] == "研墨"


# --- doctor


def test_doctor_as_json_is_the_report(yan):
    code, out, err = yan("doctor", "--quick", "--json")
    assert (code, err) == (0, "")
    assert {"cpu", "cores", "memory", "extras", "gpus"} <= set(json.loads(out))


@pytest.mark.parametrize("columns", [40, 80])
def test_doctor_fits_the_terminal(yan, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    code, out, _ = yan("doctor", "--quick")
    assert code == 0
    assert "processor" in out
    assert "[corpus]" in out
    assert max(map(len, out.splitlines())) <= columns
