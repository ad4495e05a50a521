"""Fuzz one decoder, led by the code that its bytes reach; a process of `bench.soak.decoders`.

    python -m bench.soak.decoders.process TARGET FOLDER LIBFUZZER_OPTION...

It ends by itself after the time in its options, or at the first defect, whose bytes stand in
FOLDER.
"""

import sys
from pathlib import Path

import atheris

PACKAGES = ["headwater_client", "features", "stream", "trainer", "deploy"]

with atheris.instrument_imports(include=PACKAGES):
    from bench.soak.decoders.target import refuse
    from bench.soak.decoders.targets import make_targets


def main() -> None:
    """Fuzz until libFuzzer ends the process."""
    name, place, *options = sys.argv[1:]
    folder = Path(place)
    target = make_targets(folder)[name]
    corpus = folder / "corpus"
    corpus.mkdir()
    for number, seed in enumerate(target.seeds):
        (corpus / f"seed-{number}").write_bytes(seed)
    arguments = [sys.argv[0], str(corpus), f"-artifact_prefix={folder}/defect-", *options]
    atheris.Setup(arguments, lambda raw: refuse(target, raw) and None)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
