#!/usr/bin/python3
"""Mneme through Python's sqlite3, and beside connections that never heard of it.

    tests/sql/clients.py BUILD/mneme.so FOLDER

Each function test_... is a sentence that holds; FOLDER is for its databases. Prints "ok" and a name
for each, exits with 1 at the first that does not hold, with 77 if this Python loads no extensions.
"""
import array
import json
import os
import random
import sqlite3
import sys
import threading

EXTENSION, FOLDER = os.path.abspath(sys.argv[1]), sys.argv[2]


def connect(name, load=True):
    db = sqlite3.connect(os.path.join(FOLDER, name), timeout=20, isolation_level=None)
    if load:
        db.enable_load_extension(True)
        db.load_extension(EXTENSION)
    return db


def ids(db, sql, *args):
    return [row[0] for row in db.execute(sql, args)]


def blob(*elements):
    return array.array("f", elements).tobytes()


def refused(db, sql, *args):
    try:
        db.execute(sql, args).fetchall()
    except sqlite3.Error as error:
        return str(error)
    raise AssertionError("not refused: " + sql)


def test_vectors_are_bound_as_arrays_of_floats():
    db = connect("a.db")
    assert db.execute("SELECT vec_distance_l2(?, ?)", (blob(0, 0), blob(3, 4))).fetchone() == (5.0,)
    assert db.execute("SELECT vec_add(?, ?)", (blob(1, 2), blob(3, 4))).fetchone()[0] == blob(4, 6)
    assert json.loads(db.execute("SELECT vec_to_json(?)", (blob(1, 2),)).fetchone()[0]) == [1, 2]
    assert "found NULL" in refused(db, "SELECT vec_length(?)", None)


def test_a_table_is_made_filled_and_asked():
    db = connect("b.db")
    db.execute("CREATE VIRTUAL TABLE docs USING mneme(id INTEGER PRIMARY KEY, embedding float[2], "
               "lang TEXT, tags JSON, +body TEXT, words FTS(body))")
    db.executemany("INSERT INTO docs(id, embedding, lang, tags, body) VALUES (?, ?, ?, ?, ?)",
                   [(i, blob(i, 0), "en" if i % 2 else "de", json.dumps(["t%d" % (i % 3)]),
                     "number %d" % i) for i in range(1, 101)])
    near = "SELECT id FROM docs WHERE embedding MATCH ? AND k = 3"
    assert ids(db, near, blob(10, 0)) == [10, 9, 11]
    assert ids(db, near + " AND lang = ?", blob(10, 0), "de") == [10, 8, 12]
    assert ids(db, near + " AND json_contains(tags, ?)", blob(10, 0), "t0") == [9, 12, 6]
    assert ids(db, near + " AND words MATCH ?", blob(0, 0), "50 OR 60") == [50, 60]
    assert ids(db, "SELECT id FROM docs WHERE embedding MATCH ? ORDER BY distance LIMIT 2 OFFSET 1",
               blob(10, 0)) == [9, 11]
    assert ids(db, "SELECT id FROM hybrid('docs', ?, ?, 1)", "number 77", blob(77, 0)) == [77]
    row = db.execute("SELECT embedding, body FROM docs WHERE id = 5").fetchone()
    assert row == (blob(5, 0), "number 5"), row


def test_transactions_belong_to_the_application():
    db, other = connect("b.db"), connect("b.db")
    near = "SELECT id FROM docs WHERE embedding MATCH ? AND k = 1"
    db.execute("BEGIN IMMEDIATE")
    db.execute("DELETE FROM docs WHERE id = 10")
    db.execute("SAVEPOINT s")
    db.execute("DELETE FROM docs WHERE id = 9")
    assert ids(db, near, blob(10, 0)) == [11]
    db.execute("ROLLBACK TO s")
    assert ids(db, near, blob(10, 0)) == [9]
    assert ids(other, near, blob(10, 0)) == [10]
    db.execute("ROLLBACK")
    assert ids(db, near, blob(10, 0)) == [10]


def test_a_table_that_was_there_is_indexed_and_written_by_anybody():
    plain = connect("c.db", load=False)
    plain.execute("CREATE TABLE notes(nid INTEGER PRIMARY KEY, title TEXT, url TEXT UNIQUE, v BLOB)")
    plain.executemany("INSERT INTO notes VALUES (?, ?, ?, ?)",
                      [(i, "title %d" % i, "u%d" % i, blob(i, 1)) for i in range(1, 51)])
    db = connect("c.db")
    answer = db.execute("SELECT mneme_index('notes', 'v', 'fts=title')").fetchone()[0]
    assert answer.startswith("notes: 50 vectors of 2 x f32, l2"), answer
    plain.execute("UPDATE notes SET v = ?, title = 'moved' WHERE nid = 30", (blob(1000, 1),))
    plain.execute("REPLACE INTO notes(title, url, v) VALUES ('new', 'u40', ?)", (blob(40, 1),))
    plain.execute("DELETE FROM notes WHERE nid = 20")
    assert ids(db, "SELECT id FROM knn('notes', ?, 1)", blob(1001, 1)) == [30]
    assert ids(db, "SELECT id FROM knn('notes', ?, 1)", blob(40, 1)) == [51]
    assert ids(db, "SELECT id FROM knn('notes', ?, 2) ORDER BY id", blob(20, 1)) == [19, 21]
    assert ids(db, "SELECT id FROM hybrid('notes', 'new moved', NULL) ORDER BY id") == [30, 51]
    assert ids(db, "SELECT id FROM hybrid('notes', '40', NULL)") == []
    db.execute("SELECT mneme_unindex('notes')").fetchall()
    assert plain.execute("SELECT count(*) FROM sqlite_master WHERE tbl_name = 'notes' AND type = "
                         "'trigger'").fetchone() == (0,)


def test_statements_come_again_with_other_values():
    db = connect("d.db")
    db.execute("CREATE VIRTUAL TABLE t USING mneme(v float[3] metric=cosine, g INTEGER)")
    rng = random.Random(1)
    rows = [(i, [rng.gauss(0, 1) for _ in range(3)], i % 4) for i in range(1, 301)]
    db.executemany("INSERT INTO t(id, v, g) VALUES (?, ?, ?)", [(i, blob(*v), g) for i, v, g in rows])

    def distance(a, b):
        dot = sum(x * y for x, y in zip(a, b))
        return 1 - dot / (sum(x * x for x in a) * sum(y * y for y in b)) ** 0.5

    for _ in range(50):
        q, g, k = [rng.gauss(0, 1) for _ in range(3)], rng.randrange(5), rng.randrange(1, 20)
        want = [i for _, i in sorted((distance(q, v), i) for i, v, h in rows if h == g)[:k]]
        got = ids(db, "SELECT id FROM t WHERE v MATCH ? AND k = ? AND g = ?", blob(*q), k, g)
        assert got == want, (got, want)


def test_threads_have_connections_of_their_own():
    main = connect("e.db")
    main.execute("CREATE VIRTUAL TABLE t USING mneme(v float[2])")
    failures = []

    def work(n):
        try:
            db = connect("e.db")
            for i in range(20):
                db.execute("INSERT INTO t(id, v) VALUES (?, ?)", (n * 100 + i, blob(n, i)))
                found = ids(db, "SELECT id FROM t WHERE v MATCH ? AND k = 1", blob(n, i))
                assert found == [n * 100 + i], found
            db.close()
        except Exception as failure:
            failures.append(failure)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(1, 5)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not failures, failures
    assert main.execute("SELECT count(*) FROM t").fetchone() == (80,)


def test_mistakes_are_sentences():
    db = connect("b.db")
    assert "the vector has 1 elements, the column 2" in refused(
        db, "INSERT INTO docs(embedding) VALUES ('[1]')")
    assert "docs.embedding MATCH" in refused(
        db, "SELECT id FROM docs WHERE embedding MATCH 'x' AND k = 1")
    assert "two MATCHes" in refused(
        db, "SELECT id FROM docs WHERE embedding MATCH ? AND embedding MATCH ? AND k = 1", b"", b"")
    assert "'-1'" in refused(db, "SELECT id FROM docs WHERE embedding MATCH ? AND k = -1", blob(1, 1))
    assert "no collection 'nothing'" in refused(db, "SELECT * FROM knn('nothing', ?)", blob(1, 1))


def test_the_extension_may_be_loaded_twice():
    db = connect("b.db")
    db.load_extension(EXTENSION)
    assert ids(db, "SELECT id FROM docs WHERE embedding MATCH ? AND k = 1", blob(7, 0)) == [7]


def test_a_database_in_a_rollback_journal_is_switched_by_the_first_query():
    db = connect("j.db")
    db.execute("CREATE VIRTUAL TABLE docs USING mneme(v float[2])")
    db.execute("INSERT INTO docs(id, v) VALUES (7, '[7, 0]'), (8, '[8, 0]')")
    db.close()
    for sql in ("SELECT id FROM docs WHERE v MATCH ? AND k = 1", "SELECT id FROM knn('docs', ?, 1)",
                "SELECT id FROM hybrid('docs', NULL, ?, 1)"):
        plain = connect("j.db", load=False)
        assert plain.execute("PRAGMA journal_mode = DELETE").fetchone() == ("delete",)
        plain.close()
        db = connect("j.db")
        assert ids(db, sql, blob(7, 0)) == [7]
        assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        db.close()


def test_databases_in_memory_work_too():
    db = sqlite3.connect(":memory:")
    db.enable_load_extension(True)
    db.load_extension(EXTENSION)
    db.execute("CREATE VIRTUAL TABLE t USING mneme(v float[1], words FTS(body), +body TEXT)")
    db.execute("INSERT INTO t(id, v, body) VALUES (1, '[1]', 'cat'), (2, '[2]', 'dog')")
    assert ids(db, "SELECT id FROM hybrid('t', 'dog', '[1]') WHERE weight = 0.1") == [2, 1]


def main():
    if not hasattr(sqlite3.Connection, "enable_load_extension"):
        print("this Python's sqlite3 loads no extensions")
        return 77
    for name, function in list(globals().items()):
        if name.startswith("test_"):
            function()
            print("ok", name[5:])
    return 0


if __name__ == "__main__":
    sys.exit(main())
