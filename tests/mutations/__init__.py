"""Mutation testing: each entry of the table breaks one guarantee of the product in a copy of the repository, and its tests must fail.

A test that passes although the code that it covers is gone proves nothing. `make mutations` applies each mutation, runs the tests that the
entry names, and reports the mutant as killed when all of them fail, or as survived. `ONLY=WORD` limits the run to one area or to the
entries whose sentence or file contains the word. The everyday test suite only checks that every entry still applies to the source.

`table/*.toml` holds the entries, one file per area; `mutation.py` defines and loads them, `runner.py` runs tests against a mutant, and
`page.py` renders `docs/mutations.md`. To add an entry, append it to the file of its area:

    [[mutation]]
    sentence = "The outbox deletes only folders that it has named."
    file = 'shared/jobs/delivery/outbox.py'
    original = ' if _NAME.fullmatch(path.name)]'    # must occur exactly once in the file
    mutant = ']'                                    # must leave the file valid Python
    tests = ['tests/shared/jobs/delivery/test_outbox.py::test_unknown_folders_are_kept']

Strings in single quotes are literal. Code that contains a single quote, or several lines, goes between triple single quotes.

A test kills the mutant by failing an assertion, `pytest.raises` included. Where the mutant makes the product raise something else, the
entry names the exception: `exception = 'ZeroDivisionError'`.
"""
