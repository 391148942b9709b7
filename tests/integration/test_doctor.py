"""The doctor: finds what is wrong with a data folder, changes nothing, and repairs only what can be derived."""

import hashlib
import json
import shutil
import sqlite3
import subprocess
import sys
import threading
from dataclasses import replace

import numpy as np
import pytest

from indexes import files as faiss_files
from indexes.rows import EncodedRows
from memory_service.clock import Stamp
from memory_service.doctor import RepairRefused, examine, plan, repair
from memory_service.journal.data_folder import DataFolder
from memory_service.journal.frames import frame, frames
from memory_service.journal.records import Put, Record
from memory_service.journal.writer import JournalWriter
from memory_service.service import MemoryService
from tests.manifests import rewritten
from tests.worker_process import environment
from vector_memory.memories import NewMemory

COFFEE = "Dana Whitfield drinks an oat flat white, never before ten in the morning."
CLI_S_MAX = 60
FAISS_FILES = ("vectors-000.faiss", "sketches-000.faiss")


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "memory"


def fill(service, start=0, count=6):
    for at in range(start, start + count):
        namespace = "other" if (at - start) % 3 == 0 else "default"
        service.store(
            NewMemory(content=f"{COFFEE} Cup {at}.", key=f"cup-{at}", namespace=namespace, metadata={"at": at})
        )
    service.store(
        NewMemory(content=f"{COFFEE} Changed. " * 15, key=f"cup-{start + 1}"), idempotency_key=f"change-{start}"
    )
    service.delete(f"cup-{start + 2}")


@pytest.fixture(scope="session")
def models(minilm, tmp_path_factory):
    """Two folders, made once and copied by the tests.

    `written` has two snapshots and records beyond both; `compacted` lost its first journal and has records beyond.
    """
    folder = tmp_path_factory.mktemp("models")
    service = MemoryService(DataFolder(folder / "written"), minilm)
    for start in (0, 10, 20):
        fill(service, start)
        if start < 20:
            service.snapshot()
    service.close()
    service = MemoryService(DataFolder(folder / "compacted"), minilm)
    fill(service)
    service.compact()
    fill(service, 10)
    service.close()
    return folder


@pytest.fixture
def written(models, folder):
    shutil.copytree(models / "written", folder)


@pytest.fixture
def compacted(models, folder):
    shutil.copytree(models / "compacted", folder)


def journal_of(folder):
    [path] = (folder / "journal").iterdir()
    return path


def snapshots_of(folder):
    return sorted((folder / "snapshots").iterdir())


def problems(report):
    return [(found.where, found.what) for found in report.findings if found.severity == "problem"]


def only_problem(folder):
    [found] = problems(examine(folder))
    return found


def everything(folder):
    """Every file and folder with its bytes and times."""
    return {
        path: (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else None) for path in folder.rglob("*")
    } | {folder: (folder.stat().st_mtime_ns, None)}


def flip(path, at):
    data = bytearray(path.read_bytes())
    data[at] ^= 0xFF
    path.write_bytes(data)


def vouch_for(snapshot):
    """Write the checksums of the files as they are now into the manifest."""
    names = json.loads((snapshot / "MANIFEST.json").read_text())["sha256"]
    rewritten(snapshot, sha256={name: hashlib.sha256((snapshot / name).read_bytes()).hexdigest() for name in names})


def journal_with(folder, minilm, *records):
    """A folder with one journal that holds these records: its path, and the offset of each record."""
    (folder / "journal").mkdir(parents=True, exist_ok=True)
    writer = JournalWriter(folder / "journal", minilm.fingerprint)
    writer.begin()
    name = writer.begin()
    writer.append([replace(record, stamp=record.stamp._replace(writer=name)) for record in records])
    writer.close()
    path = folder / "journal" / f"{name}.log"
    return path, [0, *(end for _, end in frames(path.read_bytes()))][1:-1]


def put(minilm, key, counter=0, vectors=None, metadata="{}", expires_at_ms=None):
    if vectors is None:
        vectors = minilm.embed(minilm.windows(COFFEE))
    return Record(
        Stamp(1_000, counter, ""),
        Put(
            namespace="default",
            key=key,
            content=COFFEE,
            metadata=metadata,
            vectors=vectors,
            created_at_ms=1_000,
            expires_at_ms=expires_at_ms,
        ),
    )


# -- healthy folders -------------------------------------------------------------------------------------------------


def test_a_healthy_folder_has_no_problems_and_is_counted(written, folder):
    report = examine(folder)
    assert {found.severity for found in report.findings} == {"ok"}
    assert report.totals.memories == {"default": 9, "other": 6}
    assert report.totals.tombstones == 3
    assert (report.totals.journals, report.totals.snapshots, report.totals.records) == (1, 2, 27)
    assert report.totals.bytes == sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    assert sum("journals alone" in found.what for found in report.findings) == 2


def test_a_compacted_folder_is_healthy_and_its_snapshots_are_compared_with_one_another(compacted, folder):
    report = examine(folder)
    assert {found.severity for found in report.findings} == {"ok"}
    whats = [found.what for found in report.findings]
    assert "compaction removed 1 journal, which snapshots cover" in whats
    assert sum("the same memories as snapshot" in what for what in whats) == 1
    assert report.totals.memories == {"default": 6, "other": 4}


def test_an_empty_folder_was_never_used(folder):
    folder.mkdir()
    [found] = examine(folder).findings
    assert (found.severity, found.where) == ("note", "store.json")


def test_expired_memories_are_no_difference(open_service, folder, minilm):
    """A worker buries what expired; the journals alone know nothing of that."""
    journal_with(folder, minilm, put(minilm, "short-lived", 0, expires_at_ms=2_000), put(minilm, "kept", 1))
    service = open_service(folder)
    service.list()
    service.snapshot()
    service.close()
    report = examine(folder)
    assert problems(report) == []
    assert report.totals.memories == {"default": 1}


def test_it_runs_beside_a_worker_that_writes_snapshots_and_compacts(open_service, folder):
    """Journals grow, and snapshots and journals vanish, while they are read."""
    service = open_service(folder)
    fill(service)

    def work():
        for at in range(4):
            fill(service, 10 * at)
            service.snapshot()
            service.snapshot()
            if at % 3 == 2:
                service.compact()

    worker = threading.Thread(target=work)
    worker.start()
    try:
        reports = [examine(folder)]
        while worker.is_alive():
            reports.append(examine(folder))
    finally:
        worker.join(60)
    assert [found for report in reports for found in problems(report)] == []
    assert len({report.totals.records for report in reports}) > 3


@pytest.mark.parametrize("state", ["whole", "compacted", "damaged"])
def test_an_examination_changes_no_byte_and_no_time(models, folder, state):
    shutil.copytree(models / ("compacted" if state == "compacted" else "written"), folder)
    if state == "damaged":
        flip(journal_of(folder), 2_000)
        flip(snapshots_of(folder)[0] / "catalog.sqlite", 5_000)
    before = everything(folder)
    examine(folder)
    assert everything(folder) == before


# -- store.json and journals -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", "[]", '{"format": 99}', '{"format": 1, "embedder": {"model": "m"}}', None])
def test_a_bad_or_missing_store_file_is_named(written, folder, text):
    (folder / "store.json").unlink()
    if text is not None:
        (folder / "store.json").write_text(text)
    assert only_problem(folder)[0] == "store.json"


def test_a_torn_tail_is_a_note(written, folder):
    path = journal_of(folder)
    size = path.stat().st_size
    with path.open("ab") as file:
        file.write(frame(b"half of this is lost")[:17])
    report = examine(folder)
    [note] = [found for found in report.findings if found.severity == "note"]
    assert note.where == f"journal/{path.name}, byte {size}"
    assert "torn tail of 17 bytes" in note.what
    assert problems(report) == []


def test_a_journal_without_a_header_yet_is_a_note(written, folder):
    (folder / "journal" / "9999999999999-aa.log").touch()
    report = examine(folder)
    assert problems(report) == []
    assert any("empty" in found.what for found in report.findings)


def test_a_bad_frame_with_valid_ones_behind_it_is_damage_at_its_offset(written, folder):
    path = journal_of(folder)
    ends = [end for _, end in frames(path.read_bytes())]
    flip(path, ends[4] + 40)
    assert (f"journal/{path.name}, byte {ends[4]}", "a bad frame with valid frames behind it") in [
        (where, what.partition(": ")[2].partition(";")[0]) for where, what in problems(examine(folder))
    ]


def test_damage_that_a_snapshot_covers_is_noted_as_such(open_service, folder):
    service = open_service(folder)
    fill(service)
    service.snapshot()
    service.close()
    path = journal_of(folder)
    flip(path, 2_000)
    notes = [found.what for found in examine(folder).findings if found.severity == "note"]
    assert f"a snapshot holds what was in its first {path.stat().st_size:,} bytes" in notes


def test_a_payload_that_makes_no_sense_is_found_though_its_checksum_holds(written, folder):
    path = journal_of(folder)
    size = path.stat().st_size
    with path.open("ab") as file:
        file.write(frame(b"\x81\xa2op\xa7unknown"))
    where, what = only_problem(folder)
    assert where == f"journal/{path.name}, byte {size}"
    assert "cannot be decoded" in what


def test_a_last_record_that_a_snapshot_proves_to_be_acknowledged_is_no_torn_tail(open_service, folder):
    service = open_service(folder)
    fill(service)
    service.snapshot()
    service.close()
    path = journal_of(folder)
    *_, end, _ = (end for _, end in frames(path.read_bytes()))
    flip(path, path.stat().st_size - 1)
    where, what = only_problem(folder)
    assert where == f"journal/{path.name}, byte {end}"
    assert "ends here, but a snapshot covers" in what


def test_a_journal_under_another_name_is_found(open_service, folder):
    service = open_service(folder)
    fill(service)
    service.close()
    journal_of(folder).rename(folder / "journal" / "another.log")
    where, what = only_problem(folder)
    assert where == "journal/another.log, byte 0"
    assert "names another writer" in what


def test_a_journal_of_another_embedder_is_found(open_service, folder, minilm):
    service = open_service(folder)
    fill(service)
    service.close()
    writer = JournalWriter(folder / "journal", replace(minilm.fingerprint, revision="0" * 64))
    writer.begin()
    writer.append([put(minilm, "k")])
    where, what = only_problem(folder)
    assert where == f"journal/{writer.writer}.log, byte 0"
    assert "another embedder" in what


ODD = {
    "not finite": np.full((1, 384), np.nan, dtype=np.float32),
    "not of unit length": np.full((1, 384), 0.5, dtype=np.float32),
    "no vector": np.empty((0, 384), dtype=np.float32),
}


@pytest.mark.parametrize("fault", [*ODD, "not a JSON object", "a stamp that is not later"])
def test_a_record_that_cannot_be_right_is_named_with_its_offset(open_service, folder, minilm, fault):
    open_service(folder).close()
    odd = put(minilm, "odd", 1, vectors=ODD.get(fault))
    if fault == "not a JSON object":
        odd = put(minilm, "odd", 1, metadata="[1]")
    if fault == "a stamp that is not later":
        odd = put(minilm, "odd", 0)
    path, offsets = journal_with(folder, minilm, put(minilm, "before", 0), odd, put(minilm, "after", 2))
    where, what = only_problem(folder)
    assert where == f"journal/{path.name}, byte {offsets[1]}"
    assert fault in what


@pytest.mark.parametrize("is_whole", [False, True])
def test_a_journal_that_a_snapshot_names_and_no_compaction_removed_is_missed(written, folder, is_whole):
    path = journal_of(folder)
    if is_whole:  # the older snapshot goes as well, so that only the newest names the journal
        shutil.rmtree(snapshots_of(folder)[0])
    path.unlink()
    found = problems(examine(folder))
    assert found[0][0] == f"journal/{path.name}"
    assert "is missing" in found[0][1]
    lacking = [where for where, what in found if "needs missing parts of journals" in what]
    assert lacking == [] if is_whole else [f"snapshots/{snapshots_of(folder)[0].name}"]


def test_a_snapshot_that_lacks_what_compaction_removed_is_found(open_service, folder):
    service = open_service(folder)
    fill(service)
    service.snapshot()
    older = snapshots_of(folder)[0]
    shutil.copytree(older, folder.parent / "kept")
    fill(service, 10)
    service.compact()
    service.close()
    shutil.rmtree(snapshots_of(folder)[0])
    shutil.copytree(folder.parent / "kept", older)
    where, what = only_problem(folder)
    assert where == f"snapshots/{older.name}"
    assert "needs missing parts of journals" in what


# -- snapshots ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["catalog.sqlite", "vectors-000.faiss", "sketches-000.faiss", "MANIFEST.json"])
@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_a_damaged_snapshot_is_named_with_its_file(written, folder, name, damage):
    newest = snapshots_of(folder)[-1]
    path = newest / name
    if damage == "remove":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:-9])
    else:
        flip(path, 9)
    report = examine(folder)
    if (name, damage) == ("MANIFEST.json", "remove"):
        assert problems(report) == []
        assert "incomplete" in next(found.what for found in report.findings if found.severity == "note")
    else:
        assert [where for where, _ in problems(report)] == [f"snapshots/{newest.name}/{name}"]
        assert report.unusable == (newest.name,)


@pytest.mark.parametrize(
    "change",
    [
        {"schema": 99},
        {"format": 99},
        {"embedder": {"model": "another", "dim": 384}},
        {"next_id": 1},
        {"journals": {"unknown": 7}},
        {"namespaces": [["default", 1]]},
        {"namespaces": "default"},
    ],
    ids=str,
)
def test_a_manifest_that_does_not_fit_is_found(written, folder, change):
    newest = snapshots_of(folder)[-1]
    rewritten(newest, **change)
    assert only_problem(folder)[0].startswith(f"snapshots/{newest.name}/")


def test_a_catalog_that_sqlite_finds_damaged_is_found_though_its_checksum_holds(written, folder):
    newest = snapshots_of(folder)[-1]
    data = bytearray((newest / "catalog.sqlite").read_bytes())
    data[4096:4200] = bytes(104)
    (newest / "catalog.sqlite").write_bytes(data)
    vouch_for(newest)
    where, what = only_problem(folder)
    assert where == f"snapshots/{newest.name}/catalog.sqlite"
    assert what.startswith("SQLite finds")


def test_ids_that_the_catalog_does_not_hold_are_found(written, folder):
    newest = snapshots_of(folder)[-1]
    ids, vectors = vectors_of(newest)
    ids[-1] += 1
    write_vectors(newest, ids, vectors)
    where, what = only_problem(folder)
    assert where == f"snapshots/{newest.name}/vectors*"
    assert "are not those of catalog.sqlite" in what


def vectors_of(snapshot):
    """The ids (n,) and vectors (n, dim) of a small snapshot."""
    data = [(snapshot / name).read_bytes() for name in FAISS_FILES]
    rows = faiss_files.read(*data, 384)
    return rows.ids, rows.vectors()


def write_vectors(snapshot, ids, vectors):
    """Put other vectors into a small snapshot, and vouch for them."""
    written = [bytearray(), bytearray()]
    faiss_files.write(EncodedRows.encode(ids, vectors), *(data.extend for data in written))
    for name, data in zip(FAISS_FILES, written, strict=True):
        (snapshot / name).write_bytes(data)
    vouch_for(snapshot)


def swap_vectors(snapshot):
    """Give two memories each other's vectors: everything stays finite, of unit length and vouched for."""
    ids, vectors = vectors_of(snapshot)
    vectors[[0, 1]] = vectors[[1, 0]]
    write_vectors(snapshot, ids, vectors)


def change_text(snapshot):
    with sqlite3.connect(snapshot / "catalog.sqlite") as connection:
        connection.execute("UPDATE memory SET content = 'forged' WHERE key = 'cup-0'")
    connection.close()
    vouch_for(snapshot)


@pytest.mark.parametrize(("tamper", "kind"), [(swap_vectors, "other vectors"), (change_text, "other content")])
@pytest.mark.parametrize("which", [0, 1])
def test_a_snapshot_changed_together_with_its_checksum_is_found_by_comparison(written, folder, tamper, kind, which):
    snapshot = snapshots_of(folder)[which]
    tamper(snapshot)
    report = examine(folder)
    [(where, what)] = problems(report)
    assert where == f"snapshots/{snapshot.name}"
    assert kind in what
    assert report.unusable == (snapshot.name,)


def test_of_two_snapshots_that_differ_after_a_compaction_none_is_declared_right(compacted, folder):
    swap_vectors(snapshots_of(folder)[-1])
    report = examine(folder)
    assert "other vectors" in problems(report)[0][1]
    assert report.unusable == ()
    assert plan(report) == []


# -- repairing ---------------------------------------------------------------------------------------------------------


def damage_a_vector_file(folder):
    flip(snapshots_of(folder)[-1] / "vectors-000.faiss", 9)


def damage_a_manifest(folder):
    (snapshots_of(folder)[-1] / "MANIFEST.json").write_text("{")


def damage_all_snapshots(folder):
    for snapshot in snapshots_of(folder):
        flip(snapshot / "catalog.sqlite", 9)


def tamper_with_the_newest(folder):
    swap_vectors(snapshots_of(folder)[-1])


def contents(service):
    return {(memory.key, memory.content) for memory in service.list(limit=1_000).memories}


@pytest.mark.parametrize(
    "damage", [damage_a_vector_file, damage_a_manifest, damage_all_snapshots, tamper_with_the_newest]
)
def test_a_repair_replaces_unusable_snapshots_and_touches_no_journal(open_service, written, folder, damage):
    journal = journal_of(folder)
    before = journal.stat().st_mtime_ns, journal.read_bytes()
    damage(folder)
    report = examine(folder)
    assert plan(report)[0].endswith(report.unusable[0])

    name = repair(report)

    after = examine(folder)
    assert problems(after) == []
    assert after.totals.memories == report.totals.memories
    assert snapshots_of(folder)[-1].name == name
    assert not set(report.unusable) & {path.name for path in snapshots_of(folder)}
    assert (journal.stat().st_mtime_ns, journal.read_bytes()) == before
    assert len(contents(open_service(folder))) == 9


def test_a_repair_after_a_compaction_builds_on_the_other_snapshot(compacted, folder):
    damage_a_vector_file(folder)
    report = examine(folder)
    repair(report)
    assert problems(examine(folder)) == []
    assert examine(folder).totals == replace(report.totals, bytes=examine(folder).totals.bytes)


def test_a_repair_is_refused_when_a_journal_is_damaged(written, folder):
    damage_a_vector_file(folder)
    flip(journal_of(folder), 2_000)
    before = everything(folder)
    report = examine(folder)
    with pytest.raises(RepairRefused, match="never touches a journal"):
        repair(report)
    assert everything(folder) == before


def test_a_repair_is_refused_when_no_snapshot_is_left_to_stand_in_for_removed_journals(compacted, folder):
    damage_all_snapshots(folder)
    before = everything(folder)
    with pytest.raises(RepairRefused, match="the journals are not complete"):
        repair(examine(folder))
    assert everything(folder) == before


def test_a_repair_keeps_a_damaged_snapshot_that_alone_covers_what_a_journal_lost(written, folder):
    """The text is in its catalog, whose vectors are broken: a person may want it."""
    damage_a_vector_file(folder)
    journal_of(folder).unlink()
    before = everything(folder)
    with pytest.raises(RepairRefused):
        repair(examine(folder))
    assert everything(folder) == before


def test_there_is_nothing_to_repair_in_a_healthy_folder(written, folder):
    assert plan(examine(folder)) == []
    with pytest.raises(RepairRefused, match="nothing to repair"):
        repair(examine(folder))


# -- the command -------------------------------------------------------------------------------------------------------


def run(*arguments, **variables):
    return subprocess.run(
        [sys.executable, "-m", "gateway.cli", "doctor", *arguments],
        env=environment(**variables),
        capture_output=True,
        text=True,
        timeout=CLI_S_MAX,
        check=False,
    )


def test_the_command_prints_a_plain_report_and_ends_with_zero_when_all_is_well(written, folder):
    done = run("--data-dir", str(folder))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{folder}: 15 memories, 3 tombstones; 1 journal with 27 records, 2 snapshots; ")
    assert done.stdout.endswith("0 problems, 0 notes\n")
    assert "\x1b" not in done.stdout


def test_the_command_ends_with_one_and_names_the_problem_and_the_remedy(written, folder):
    flip(journal_of(folder), 2_000)
    done = run(MEMORY_DATA_DIR=str(folder))
    assert done.returncode == 1
    assert f"problem  journal/{journal_of(folder).name}, byte " in done.stdout
    assert "Restore the file from a backup" in done.stdout


def test_the_command_gives_the_report_as_json(written, folder):
    damage_a_vector_file(folder)
    done = run("--data-dir", str(folder), "--json")
    report = json.loads(done.stdout)
    assert (done.returncode, report["problems"]) == (1, 1)
    assert set(report) == {"folder", "findings", "totals", "unusable", "refusal", "problems"}
    assert report["unusable"] == [snapshots_of(folder)[-1].name]
    assert all(set(found) == {"severity", "what", "where", "remedy"} for found in report["findings"])


def test_the_command_says_what_a_repair_does_and_ends_with_zero_after_it(written, folder):
    damage_a_vector_file(folder)
    bad = snapshots_of(folder)[-1].name
    done = run("--data-dir", str(folder), "--repair")
    assert done.returncode == 0
    assert f"repair will remove the unusable snapshot snapshots/{bad}" in done.stderr
    assert "1 problem, 0 notes" in done.stdout
    assert done.stdout.endswith("0 problems, 0 notes\n")


def test_the_command_says_why_it_does_not_repair(written, folder):
    flip(journal_of(folder), 2_000)
    done = run("--data-dir", str(folder), "--repair", "--json")
    assert done.returncode == 1
    assert "not repaired: journal/" in done.stderr
    assert json.loads(done.stdout)["refusal"] is not None


@pytest.mark.parametrize(
    ("arguments", "variables"),
    [
        (["--data-dir", "/nowhere/at/all"], {}),
        (["--unknown"], {}),
        ([], {"MEMORY_EPHEMERAL": "true"}),
        ([], {"MEMORY_DATA_DRI": "data"}),
    ],
)
def test_a_wrong_call_ends_with_two(arguments, variables):
    done = run(*arguments, **variables)
    assert done.returncode == 2
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
